"""Reads a multipart form (RFC 7578) into memory, within limits.

Starlette's parser writes large files to disk; radiographs are patient data and stay in memory here
(docs/decisions/0020-uploads-in-memory.md). The body is counted while it streams in, before any of
it is parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from edge_agent.core.admission import ByteBudget
from edge_agent.errors import InvalidRequest, Overloaded
from edge_agent.serving.http.errors import BodyTooLarge, BodyTooSlow

_MAX_BOUNDARY: Final = 70  # RFC 2046 section 5.1.1
_HINT: Final = "Send multipart/form-data, as `curl -F file=@image.dcm` does."


@dataclass(frozen=True, slots=True)
class FormLimits:
    """The limits of one form. `timeout_s` is for the whole upload."""

    max_body_bytes: int
    max_file_bytes: int
    max_files: int
    max_fields: int = 16
    max_field_bytes: int = 1024
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file of a form: its field's name and its bytes, None if it was larger than the limit."""

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
    """Read the form of a request and hold it while the block runs.

    Args:
        request: its body has not been read.
        limits: the limits of this form.
        budget: the bytes of all uploads; the body counts against it until the block ends.

    Raises:
        InvalidRequest: the body is not a multipart form, or is damaged.
        BodyTooLarge: the body is larger than the limits.
        BodyTooSlow: the upload took too long.
        Overloaded: the budget is spent.
        ClientDisconnect: the caller disconnected.
    """
    _check_content_type(request.headers.getlist("content-type"))
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_body_bytes:
        raise _too_large_error(limits)
    held_bytes = 0

    async def count_body() -> AsyncGenerator[bytes, None]:
        nonlocal held_bytes
        async for chunk in request.stream():
            if held_bytes + len(chunk) > limits.max_body_bytes:
                raise _too_large_error(limits)
            if not budget.reserve(len(chunk)):
                raise Overloaded("The agent already holds as many uploads as it can.")
            held_bytes += len(chunk)
            yield chunk

    try:
        try:
            async with asyncio.timeout(limits.timeout_s):
                form = await _parse_form(_FormParser(request, count_body(), limits))
        except TimeoutError:
            raise BodyTooSlow(
                f"The upload took longer than {limits.timeout_s:g} s.",
                hint="Check the network between this caller and the agent.",
            ) from None
        yield form
    finally:
        budget.release(held_bytes)


class _FormParser(MultiPartParser):
    """Starlette's parser for headers, fields and limits, with files kept in memory.

    Starlette awaits a write for every fragment of a file, and a compressed image comes in
    fragments of about 256 bytes, because each carriage return may begin a boundary. An image of
    7.2 MB takes 7 ms of processor time here and 16 ms there.
    """

    def __init__(
        self, request: Request, body: AsyncGenerator[bytes, None], limits: FormLimits
    ) -> None:
        super().__init__(
            request.headers,
            body,
            max_files=limits.max_files,
            max_fields=limits.max_fields,
            max_part_size=limits.max_field_bytes,
        )
        self.files: list[UploadedFile] = []
        self.is_complete = False
        self._max_file_bytes = limits.max_file_bytes
        self._buffer: BytesIO | None = None  # None while the part is a field.

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        upload = self._current_part.file
        self._buffer = None if upload is None else BytesIO()
        if upload is not None:
            upload.file.close()  # Starlette's file would move to disk as it grows.

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._buffer is None:
            super().on_part_data(data, start, end)
        else:
            self._buffer.write(data[start:end])

    def on_part_end(self) -> None:
        if self._buffer is None:
            super().on_part_end()
        else:
            is_too_large = self._buffer.tell() > self._max_file_bytes
            data = None if is_too_large else self._buffer.getvalue()
            self.files.append(UploadedFile(self._current_part.field_name, data))
            self._buffer = None

    def on_end(self) -> None:
        self.is_complete = True


async def _parse_form(parser: _FormParser) -> Form:
    try:
        fields = {name: str(value) for name, value in (await parser.parse()).multi_items()}
    except MultiPartException as error:  # Its message names a limit and does not quote the body.
        raise InvalidRequest(
            f"The multipart form is not accepted: {error.message}",
            hint="Send one file to /predict, several to /predict/batch, each with a file name.",
        ) from None
    except ValueError:  # FormParserError, or a charset that cannot be used.
        raise InvalidRequest("The multipart body is malformed.", hint=_HINT) from None
    if not parser.is_complete:
        raise InvalidRequest(
            "The multipart body ends before its last boundary.", hint="Send the whole file."
        )
    if "" in fields or any(not file.field_name for file in parser.files):
        raise InvalidRequest("A part of the form has no name.", hint=_HINT)
    return Form(tuple(parser.files), fields)


def _check_content_type(content_types: list[str]) -> None:
    kind, options = parse_options_header(content_types[0] if len(content_types) == 1 else None)
    if kind != b"multipart/form-data":
        raise InvalidRequest("The request's body is not a multipart form.", hint=_HINT)
    if not 0 < len(options.get(b"boundary", b"")) <= _MAX_BOUNDARY:
        raise InvalidRequest("The multipart form has no usable boundary.", hint=_HINT)


def _too_large_error(limits: FormLimits) -> BodyTooLarge:
    return BodyTooLarge(
        f"The request is larger than {limits.max_body_bytes / 2**20:.0f} MiB.",
        hint="Send fewer or smaller files.",
    )
