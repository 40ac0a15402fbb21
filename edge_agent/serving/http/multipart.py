"""A multipart form (RFC 7578), read into memory within limits.

Starlette's own form parser spools uploads to disk; radiographs are patient data and stay in
memory here. The body is counted while it streams in, before any of it is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from edge_agent.core.admission import ByteBudget
from edge_agent.errors import InvalidRequest, Overloaded
from edge_agent.serving.http.errors import BodyTooLarge, BodyTooSlow, quoted

_MAX_BOUNDARY: Final = 70  # RFC 2046 section 5.1.1
_HINT: Final = "Send multipart/form-data, as `curl -F file=@image.dcm` does."


@dataclass(frozen=True, slots=True)
class FormLimits:
    """What one form may hold. `timeout_s` is for the whole upload."""

    max_body_bytes: int
    max_file_bytes: int
    max_files: int
    max_fields: int = 16
    max_field_bytes: int = 1024
    timeout_s: float = 120.0


@dataclass(slots=True)
class _Part:
    """One part as it comes in. `overflown` means: larger than a file may be, and not kept."""

    name: str = ""
    is_file: bool = False
    chunks: list[bytes] = field(default_factory=list)
    size_bytes: int = 0
    overflown: bool = False


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file part: its field's name and bytes; `data` is None if it was too large to keep."""

    field_name: str
    data: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Form:
    """A form's files, in the order sent, and its other fields."""

    files: tuple[UploadedFile, ...]
    fields: dict[str, str]


@asynccontextmanager
async def receive_form(
    request: Request, limits: FormLimits, budget: ByteBudget
) -> AsyncIterator[Form]:
    """Read the request's form. Its bytes count against `budget` until the block ends.

    Raises:
        InvalidRequest: not a multipart form, or a damaged one.
        BodyTooLarge: larger than the limits.
        BodyTooSlow: the upload took too long.
        Overloaded: the agent holds as many uploads as it may.
        ClientDisconnect: the caller went away.
    """
    boundary = _boundary(request.headers.getlist("content-type"))
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_body_bytes:
        raise _too_large(limits)
    reader = _Reader(boundary, limits)
    held = 0
    try:
        try:
            async with asyncio.timeout(limits.timeout_s):
                received = 0
                async for chunk in request.stream():
                    received += len(chunk)
                    if received > limits.max_body_bytes:
                        raise _too_large(limits)
                    if not budget.reserve(len(chunk)):
                        raise Overloaded("The agent already holds as many uploads as it may.")
                    held += len(chunk)
                    reader.write(chunk)
        except TimeoutError:
            raise BodyTooSlow(
                f"The upload took longer than {limits.timeout_s:g} s.",
                hint="Check the network between this caller and the agent.",
            ) from None
        yield reader.form()
    finally:
        budget.release(held)


class _Reader:
    """Collects the parts that the parser reports."""

    def __init__(self, boundary: bytes, limits: FormLimits) -> None:
        self._limits = limits
        self._files: list[UploadedFile] = []
        self._fields: dict[str, str] = {}
        self._part = _Part()
        self._header_name = b""
        self._header_value = b""
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_piece,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError:
            # The parser's own words quote the body.
            raise InvalidRequest("The multipart body is malformed.", hint=_HINT) from None

    def form(self) -> Form:
        if not self._ended:
            raise InvalidRequest(
                "The multipart body ends before its last boundary.", hint="Send the whole file."
            )
        return Form(tuple(self._files), self._fields)

    def _part_begin(self) -> None:
        self._part = _Part()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_piece(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(self._header_value)
            self._part.name = options.get(b"name", b"").decode("utf-8", "replace")
            self._part.is_file = b"filename" in options
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        if not self._part.name:
            raise InvalidRequest("A part of the form has no name.", hint=_HINT)
        if self._part.is_file and len(self._files) >= self._limits.max_files:
            raise InvalidRequest(
                f"The form holds more than {self._limits.max_files} file(s).",
                hint="Send one file to /predict, several to /predict/batch.",
            )
        if not self._part.is_file and len(self._fields) >= self._limits.max_fields:
            raise InvalidRequest(f"The form holds more than {self._limits.max_fields} fields.")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        part.size_bytes += end - start
        if part.is_file and part.size_bytes > self._limits.max_file_bytes:
            part.overflown = True
            part.chunks.clear()
        elif not part.is_file and part.size_bytes > self._limits.max_field_bytes:
            raise InvalidRequest(
                f"The field {quoted(part.name)} is too long.",
                hint="A file needs a file name in its part's Content-Disposition.",
            )
        else:
            part.chunks.append(data[start:end])

    def _part_end(self) -> None:
        part = self._part
        if part.is_file:
            data = None if part.overflown else b"".join(part.chunks)
            self._files.append(UploadedFile(part.name, data))
        else:
            self._fields[part.name] = b"".join(part.chunks).decode("utf-8", "replace")
        self._part = _Part()

    def _end(self) -> None:
        self._ended = True


def _boundary(content_types: list[str]) -> bytes:
    kind, options = parse_options_header(content_types[0] if len(content_types) == 1 else None)
    if kind != b"multipart/form-data":
        raise InvalidRequest("The request's body is not a multipart form.", hint=_HINT)
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise InvalidRequest("The multipart form names no usable boundary.", hint=_HINT)
    return boundary


def _too_large(limits: FormLimits) -> BodyTooLarge:
    return BodyTooLarge(
        f"The request is larger than {limits.max_body_bytes / 2**20:.0f} MiB.",
        hint="Send fewer or smaller files.",
    )
