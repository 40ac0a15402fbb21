"""The viewer's files: read once at the start, served from memory, from a fixed list."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
_ADDRESSES: Final[Mapping[str, str]] = {"/index.html": "/", "/docs.html": "/docs"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file as it is served."""

    content: bytes
    media_type: str
    etag: str

    async def answer(self, request: Request) -> Response:
        """Answer GET and HEAD; `304` where the browser has this very content."""
        headers = {"ETag": self.etag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def load_pages(folder: Path) -> dict[str, StaticFile]:
    """Read every file that a page may ask for; the key is its address."""
    pages: dict[str, StaticFile] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix not in _TYPES:
            continue
        address = "/" + path.relative_to(folder).as_posix()
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:32]
        pages[_ADDRESSES.get(address, address)] = StaticFile(
            content, _TYPES[path.suffix], f'"{digest}"'
        )
    return pages
