"""Serves the viewer's files from memory. They are read once at the start, from a fixed list."""

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
_PATHS: Final[Mapping[str, str]] = {"/index.html": "/", "/docs.html": "/docs"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """The content of one file and its headers."""

    content: bytes
    media_type: str
    etag: str

    async def respond(self, request: Request) -> Response:
        """Respond to GET and HEAD; `304` if the browser has this content."""
        headers = {"ETag": self.etag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def load_static_files(folder: Path) -> dict[str, StaticFile]:
    """Read every file that a page may load; the key is its URL path."""
    files: dict[str, StaticFile] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix not in _TYPES:
            continue
        path = "/" + file.relative_to(folder).as_posix()
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:32]
        files[_PATHS.get(path, path)] = StaticFile(content, _TYPES[file.suffix], f'"{digest}"')
    return files
