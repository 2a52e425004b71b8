"""Guard the app: Host, origin and token of each request, the size of its body, and the headers of each answer."""

from __future__ import annotations

import hmac
import json
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
COOKIE = "camscope_token"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_FOREIGN = ("cross-site", "same-site")


class Guard:
    """ASGI middleware that refuses what no page of the app sends.

    Args:
        app: the application.
        hosts: allowed names in the Host header, without port; None for any, which needs a token.
        token: what a request must know; None for none.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None, token: str | None) -> None:
        self._app, self._hosts, self._token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        headers = Headers(scope=scope)
        if self._hosts is not None and _name_of(headers.get("host", "")) not in self._hosts:
            await _refuse(sealed, 421, "this address is not one of the app")
        elif not _same_origin(scope, headers):
            await _refuse(sealed, 403, "a page of another site may not use the app")
        elif self._token is None or _knows(self._token, headers):
            await self._app(scope, receive, sealed)
        elif scope["path"] == "/" and _equal(self._token, _asked(scope)):
            cookie = f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/"
            start = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
            await sealed({"type": "http.response.start", "status": 303, "headers": start})
            await sealed({"type": "http.response.body", "body": b""})
        else:
            await _refuse(sealed, 401, "this app needs its token: open the address that ends in ?token=...")


def _name_of(host: str) -> str:
    """Return a Host header without its port, in lower case.

    >>> _name_of("LOCALHOST:8765"), _name_of("[::1]:80"), _name_of("evil.example")
    ('localhost', '[::1]', 'evil.example')
    """
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def _same_origin(scope: Scope, headers: Headers) -> bool:
    """Return whether a request may come from a page of the app, or from a program."""
    if (origin := headers.get("origin")) is not None:
        try:
            return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
        except ValueError:
            return False
    opens_page = scope["method"] == "GET" and scope["path"] == "/"
    return opens_page or headers.get("sec-fetch-site", "") not in _FOREIGN


def _knows(token: str, headers: Headers) -> bool:
    kind, _, sent = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and _equal(token, sent):
        return True
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return False
    return cookie is not None and _equal(token, cookie.value)


def _asked(scope: Scope) -> str:
    query: bytes = scope["query_string"]
    return parse_qs(query.decode("latin-1")).get("token", [""])[0]


def _equal(token: str, sent: str) -> bool:
    return hmac.compare_digest(token.encode(), sent.encode("utf-8", "replace"))


async def _refuse(send: Send, status: int, text: str) -> None:
    body = json.dumps({"error": text}).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
