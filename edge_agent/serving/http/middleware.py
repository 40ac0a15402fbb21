"""ASGI middleware around every request: trusted hosts, security headers, coded failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.core.authorization import Denied
from edge_agent.core.request_origin import TrustedHosts, check_request
from edge_agent.errors import Overloaded
from edge_agent.serving.error_boundary import as_hilum_error
from edge_agent.serving.http.errors import HeadersTooLarge, to_error_response

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
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
MAX_HEADER_BYTES: Final = 32 << 10
MAX_REQUESTS: Final = 256
"""Requests at once; far more than the admission queue admits."""
DRAIN_S: Final = 5.0
"""Seconds for which the rest of a refused upload is read, so that the response arrives."""


class SecurityMiddleware:
    """Protects the application by four rules.

    1. A request is refused if its Host or Origin is not trusted (`core.request_origin`), if its
       headers are too large, or if too many requests are running. The last does not apply to GET
       and HEAD, which health checks use.
    2. An unforeseen error becomes a response with an error code.
    3. Every response has the security headers, and `no-store` unless it sets another policy.
    4. A response that is ready before its upload has ended waits up to `drain_s` for the rest of
       the upload, because a connection that is closed during an upload loses the response.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        trusted_hosts: TrustedHosts,
        record_denial: Callable[[Denied], None],
        drain_s: float = DRAIN_S,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        """Wrap an application.

        Args:
            app: the application.
            trusted_hosts: the hosts and origins that requests may name.
            record_denial: called with each denial.
            drain_s: the seconds that a response waits for the rest of its upload.
            max_requests: requests at once; safe methods are not limited.
        """
        self._app = app
        self._trusted_hosts = trusted_hosts
        self._record_denial = record_denial
        self._drain_s = drain_s
        self._max_requests = max_requests
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        upload = _Upload(receive, headers)
        has_started = False

        async def send_protected(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                is_drained = await upload.drain(self._drain_s)
                _set_headers(MutableHeaders(scope=message), keep_alive=is_drained)
            await send(message)

        self._running += 1
        try:
            self._check(scope, headers)
            await self._app(scope, upload.receive, send_protected)
        except Exception as error:
            failure = as_hilum_error(error)
            if has_started:
                raise
            await to_error_response(failure)(scope, upload.receive, send_protected)
        finally:
            self._running -= 1

    def _check(self, scope: Scope, headers: Headers) -> None:
        if self._running > self._max_requests and scope["method"] not in _SAFE_METHODS:
            raise Overloaded("The agent already has as many requests as it can hold.")
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADER_BYTES:
            raise HeadersTooLarge(f"The headers hold more than {MAX_HEADER_BYTES >> 10} KiB.")
        denied: Denied | None = check_request(
            self._trusted_hosts,
            method=scope["method"],
            host=headers.getlist("host"),
            origin=headers.getlist("origin"),
            fetch_site=headers.get("sec-fetch-site"),
            fetch_mode=headers.get("sec-fetch-mode"),
        )
        if denied is not None:
            self._record_denial(denied)
            raise denied.to_error()


class _Upload:
    """The body of a request while it arrives."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self._has_ended = not has_body
        # Such a caller sends nothing before `100 Continue` (RFC 9110 section 10.1.1).
        self._awaits_continue = headers.get("expect", "").lower() == "100-continue"

    async def receive(self) -> Message:
        self._awaits_continue = False
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._has_ended = True
        return message

    async def drain(self, within_s: float) -> bool:
        """Read and drop the rest of the body; return True if it has ended."""
        if self._awaits_continue and not self._has_ended:
            return False
        try:
            async with asyncio.timeout(within_s):
                while not self._has_ended:
                    await self.receive()
        except TimeoutError:
            return False
        return True


def _set_headers(headers: MutableHeaders, *, keep_alive: bool) -> None:
    for name, value in SECURITY_HEADERS.items():
        headers[name] = value
    headers.setdefault("Cache-Control", "no-store")
    if not keep_alive:
        headers["Connection"] = "close"
