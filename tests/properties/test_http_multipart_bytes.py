"""Hostile uploads: any bytes get a response with a code, and no memory is kept."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from edge_agent.core.admission import ByteBudget
from edge_agent.errors import HilumError
from edge_agent.serving.http.multipart import Form, FormLimits, receive_form
from hilum.codes import ErrorCode

LIMITS = FormLimits(max_body_bytes=2048, max_file_bytes=500, max_files=3, max_fields=3)
PIECES = st.sampled_from(
    [
        b"--b",
        b"--b\r\n",
        b"--b--\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"--",
        b"Content-Disposition: form-data; ",
        b'name="file"; ',
        b'filename="x"',
        b"Content-Type: image/png",
        b": ",
        b'"',
        b"\x00\xff",
    ]
)
BODIES = st.lists(PIECES | st.binary(max_size=300), max_size=25).map(b"".join)


async def _read(body: bytes, cuts: list[int], budget: ByteBudget) -> Form | HilumError:
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    chunks = iter([body[a:b] for a, b in pairwise(places)])

    async def receive() -> dict[str, Any]:
        chunk = next(chunks, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    request = Request({"type": "http", "headers": headers}, receive)
    try:
        async with receive_form(request, LIMITS, budget) as form:
            return form
    except HilumError as error:
        return error


@given(BODIES, st.lists(st.integers(0, 4096), max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_form_or_an_error_with_a_code(body: bytes, cuts: list[int]) -> None:
    budget = ByteBudget(1 << 20)
    form = asyncio.run(_read(body, cuts, budget))
    assert budget.used_bytes == 0
    if isinstance(form, Form):
        assert sum(len(file.data or b"") for file in form.files) <= len(body)
        assert len(form.files) <= LIMITS.max_files
    else:
        assert form.code in {ErrorCode.INVALID_REQUEST, ErrorCode.TOO_LARGE}


FILES = st.binary(max_size=400).filter(lambda data: b"\r\n--b" not in data)


@given(st.lists(FILES, min_size=1, max_size=3), st.lists(st.integers(0, 4096)))
@settings(max_examples=100, deadline=None)
def test_files_arrive_as_they_were_sent(files: list[bytes], cuts: list[int]) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    body = b"".join(head + data + b"\r\n" for data in files) + b"--b--\r\n"
    form = asyncio.run(_read(body, cuts, ByteBudget(1 << 20)))
    assert isinstance(form, Form)
    assert [file.data for file in form.files] == files
