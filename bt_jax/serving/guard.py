"""Who may ask the server, and what browsers may do with its answers."""

import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
  "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
  "form-action 'none'; frame-ancestors 'none'",
  "Cache-Control": "no-store",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Resource-Policy": "same-origin",
}


def is_local(host: str) -> bool:
  """Whether an address to listen on is reachable only from this machine."""
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == "localhost"


def guards(host: str) -> list[Middleware]:
  """Middleware that refuses foreign pages, and puts `HEADERS` on every answer.

  A foreign page can make its own host name lead to this machine, so a server for this machine answers to no other name.

  Args:
    host: the address that the server listens on.
  """
  names = [f"[{host}]" if ":" in host else host, "localhost", "127.0.0.1", "[::1]"] if is_local(host) else ["*"]
  return [
    Middleware(_Headers),
    Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False),
    Middleware(_SameOrigin),
  ]


class _Headers:
  def __init__(self, app: ASGIApp):
    self.app = app

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    async def send_with_headers(message: Message) -> None:
      if message["type"] == "http.response.start":
        MutableHeaders(scope=message).update(HEADERS)
      await send(message)

    await self.app(scope, receive, send_with_headers)


class _SameOrigin:
  """Browsers name the page a POST comes from; programs that are not browsers name none."""

  def __init__(self, app: ASGIApp):
    self.app = app

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
    if scope["type"] == "http" and scope["method"] == "POST" and foreign:
      line = f"a page of {origin} must not send files here: open this server's own page"
      await JSONResponse({"error": line}, 403)(scope, receive, send)
    else:
      await self.app(scope, receive, send)
