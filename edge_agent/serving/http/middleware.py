"""What surrounds every HTTP request: whose page it comes from, safe headers, no naked failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.core.authorization import Denied
from edge_agent.core.request_origin import TrustedHosts, check_request
from edge_agent.errors import Overloaded
from edge_agent.serving.error_boundary import coded
from edge_agent.serving.http.errors import HeadersTooLarge, error_response

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; "
    "script-src 'self'; "
    "style-src 'self'; "
    "img-src 'self' blob:; "
    "connect-src 'self'; "
    "base-uri 'none'; "
    "form-action 'none'; "
    "frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_READING: Final = frozenset({"GET", "HEAD"})
MAX_HEADER_BYTES: Final = 32 << 10
MAX_REQUESTS: Final = 256
"""Requests at once; far more than can wait for the detector."""
DRAIN_S: Final = 5.0
"""How long the rest of a refused upload is read and thrown away, so that the answer arrives."""


class SecurityMiddleware:
    """ASGI middleware around everything else.

    1. A request whose Host or Origin is not the page's own goes no further (`core.request_origin`);
       nor does one with too many headers, or one that is more than can be held at once; who only
       reads, such as a health check, always may.
    2. An unforeseen error becomes a coded answer.
    3. Every answer carries the security headers, and `no-store` unless it says otherwise.
    4. An answer given before the upload has ended waits, for a while, until the caller has sent
       the rest; a connection closed under an upload would take the answer with it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: TrustedHosts,
        turned_away: Callable[[Denied], None],
        drain_s: float = DRAIN_S,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        self._app = app
        self._names = names
        self._turned_away = turned_away
        self._drain_s = drain_s
        self._max_requests = max_requests
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        upload = _Upload(receive, headers)
        started = False

        async def guarded_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                ended = await upload.drained(self._drain_s)
                _dress(MutableHeaders(scope=message), keep_alive=ended)
            await send(message)

        self._inside += 1
        try:
            self._check(scope, headers)
            await self._app(scope, upload.receive, guarded_send)
        except Exception as error:
            failure = coded(error)
            if started:
                raise
            await error_response(failure)(scope, upload.receive, guarded_send)
        finally:
            self._inside -= 1

    def _check(self, scope: Scope, headers: Headers) -> None:
        if self._inside > self._max_requests and scope["method"] not in _READING:
            raise Overloaded("The agent already has as many requests as it can hold.")
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADER_BYTES:
            raise HeadersTooLarge(f"The headers hold more than {MAX_HEADER_BYTES >> 10} KiB.")
        denied: Denied | None = check_request(
            self._names,
            method=scope["method"],
            host=headers.getlist("host"),
            origin=headers.getlist("origin"),
            fetch_site=headers.get("sec-fetch-site"),
            fetch_mode=headers.get("sec-fetch-mode"),
        )
        if denied is not None:
            self._turned_away(denied)
            raise denied.to_error()


class _Upload:
    """The request's body on its way in, and whether it has ended."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self._ended = not has_body
        # A caller that waits for `100 Continue` sends nothing until it is asked to.
        self._held_back = headers.get("expect", "").lower() == "100-continue"

    async def receive(self) -> Message:
        self._held_back = False
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._ended = True
        return message

    async def drained(self, within_s: float) -> bool:
        """Throw away what is still to come; True if the body has ended."""
        if self._held_back and not self._ended:
            return False
        try:
            async with asyncio.timeout(within_s):
                while not self._ended:
                    await self.receive()
        except TimeoutError:
            return False
        return True


def _dress(headers: MutableHeaders, *, keep_alive: bool) -> None:
    for name, value in SECURITY_HEADERS.items():
        headers[name] = value
    headers.setdefault("Cache-Control", "no-store")
    if not keep_alive:
        headers["Connection"] = "close"
