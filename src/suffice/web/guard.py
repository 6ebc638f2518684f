"""Who is answered, and what a browser may do with the answer: a layer around the whole application.

- **Host**: a page of a stranger whose name was made to point at this machine (DNS rebinding) says that name as Host.
- **Origin**: a page of a stranger that sends requests here says where it is from. What has an Origin must be our page.
- **Token**: where the server can be reached from other machines, who asks has to know it.
- **Size**: a body that is too large is refused, whether it says its length or not.
- **Content-Security-Policy**: of a page of ours, only our own files act; no other host is ever asked.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

COOKIE = "suffice-token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
}
_DRAINED = 2**28  # bytes of a refused body that are read all the same, so that its sender gets to read the answer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class TooLargeError(Exception):
    """Raised inside of the application where a body is larger than it may be."""


class Guard:
    """The layer; see above.

    Args:
        app: what it guards.
        hosts: names that a Host header may say; every address in numbers may be said where a token is needed.
        token: that who asks has to know; None: nobody has to.
        largest: bytes of a body.
    """

    def __init__(self, app: App, *, hosts: Iterable[str], token: str | None, largest: int) -> None:
        self._app, self._hosts, self._token, self._largest = app, {name.lower() for name in hosts}, token, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = _Body(receive, self._largest)

        async def sent(message: Message) -> None:
            if body.too_large:  # what the application makes of a body that breaks off is no answer
                return
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                added = [(n.encode(), v.encode()) for n, v in _HEADERS.items() if n.encode() not in given]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        refused = self._refusal(scope, headers)
        if refused is not None:
            status, why = refused
            if status == 413:
                await _drain(receive)
            await _answer(sent, status, why)
            return
        if scope["method"] == "GET" and scope["path"] == "/" and b"token=" in scope["query_string"]:
            await self._give_cookie(sent)
            return
        with contextlib.suppress(TooLargeError):
            await self._app(scope, body.receive, sent)
        if body.too_large:
            body.too_large = False
            await _drain(receive)
            await _answer(sent, 413, self._too_large())

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_ours(_name_of(host)):
            return 403, f"expected a Host among {', '.join(sorted(self._hosts))}; got {host[:200]!r}"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, f"expected a request of this server's own page; got one of the Origin {origin[:200]!r}"
        cross = headers.get("sec-fetch-site") == "cross-site"
        if cross and scope["path"] != "/":
            return 403, "expected a request of this server's own page; got one of another site"
        if self._token is not None and not self._knows_token(scope, headers):
            return 401, "expected the token that the server was started with: in the address that it printed"
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._largest:
            return 413, self._too_large()
        return None

    def _is_ours(self, name: str) -> bool:
        if name.lower() in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._token is not None  # no name was made to point here, and the token is asked for besides

    def _knows_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        given = [headers.get("authorization", "").removeprefix("Bearer ")]
        given += parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
            given += [cookies[COOKIE].value] if COOKIE in cookies else []
        except CookieError:
            pass
        assert self._token is not None
        return any(hmac.compare_digest(each.encode(), self._token.encode()) for each in given)

    async def _give_cookie(self, send: Send) -> None:
        """The token goes out of the address, where a screenshot or a link would show it."""
        cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        headers = [(b"location", b"/"), (b"content-length", b"0")]
        headers += [(b"set-cookie", cookie.encode())] if self._token else []
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def _too_large(self) -> str:
        return f"expected a request of at most {self._largest:,} bytes; got more"


class _Body:
    """A body as it comes in, and whether it was larger than it may be."""

    def __init__(self, receive: Receive, largest: int) -> None:
        self._receive, self._largest, self._got, self.too_large = receive, largest, 0, False

    async def receive(self) -> Message:
        """The next part of it."""
        message = await self._receive()
        self._got += len(message.get("body", b""))
        if self._got > self._largest:
            self.too_large = True
            raise TooLargeError
        return message


def _name_of(host: str) -> str:
    """The name in a Host header, without its port.

    >>> _name_of("localhost:8000"), _name_of("[::1]:8000"), _name_of("")
    ('localhost', '::1', '')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


async def _drain(receive: Receive) -> None:
    got = 0
    while got < _DRAINED:
        message = await receive()
        got += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return


async def _answer(send: Send, status: int, why: str) -> None:
    body = json.dumps({"detail": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")] if status == 413 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
