"""Ends the requests that are being answered when the server is asked to stop."""

import anyio
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Stopping:
  """Middleware whose `stop` cancels every request: whoever sends, waits or is predicted for is answered 503.

  What a request holds, its temporary folder above all, is let go of by its own context managers.
  """

  def __init__(self, app: ASGIApp):
    self.app = app
    self._requests: set[anyio.CancelScope] = set()
    self._stopped = False

  def stop(self) -> None:
    """Cancels what is being answered, and whatever still comes; to be called in the server's event loop."""
    self._stopped = True
    for request in self._requests:
      request.cancel()

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
      await self.app(scope, receive, send)
      return
    started = False

    async def watched_send(message: Message) -> None:
      nonlocal started
      started = True
      await send(message)

    with anyio.CancelScope() as request:
      self._requests.add(request)
      if self._stopped:
        request.cancel()
      try:
        await self.app(scope, receive, watched_send)
      finally:
        self._requests.discard(request)
    if request.cancelled_caught and not started:
      line = "the server is being stopped: start it again, and send the scan again"
      await JSONResponse({"error": line}, 503, headers={"Connection": "close"})(scope, receive, send)
