"""Ends the requests that are being answered when the server is asked to stop."""

import anyio
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Stopping:
  """Middleware whose `stop` cancels every request and answers it with 503, whether it uploads, waits or is predicted.

  A request's own context managers release what it holds, such as its temporary folder.
  """

  def __init__(self, app: ASGIApp):
    self.app = app
    self._requests: set[anyio.CancelScope] = set()
    self._stopped = False

  def stop(self) -> None:
    """Cancels all requests, those still to come too; must be called in the server's event loop."""
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
