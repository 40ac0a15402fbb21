"""Forms read from a stream: damaged ones are refused, memory is bounded, nothing is on disk."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from edge_agent.core.admission import ByteBudget
from edge_agent.errors import HilumError, InvalidRequest, Overloaded
from edge_agent.serving.http.errors import BodyTooLarge, BodyTooSlow
from edge_agent.serving.http.multipart import Form, FormLimits, receive_form

LIMITS = FormLimits(
    max_body_bytes=4096, max_file_bytes=2000, max_files=2, max_fields=2, timeout_s=30
)
FORM = "multipart/form-data; boundary=b"


def part(name: str | None, data: bytes, *, file: bool = True) -> bytes:
    named = "" if name is None else f'; name="{name}"'
    filed = '; filename="x"' if file else ""
    return f"--b\r\nContent-Disposition: form-data{named}{filed}\r\n\r\n".encode() + data + b"\r\n"


def request(chunks: Iterable[bytes], *, kind: str | None = FORM, **headers: str) -> Request:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(waiting, {"type": "http.disconnect"})

    all_headers = {"content-type": kind, **headers} if kind is not None else headers
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in all_headers.items()]
    return Request({"type": "http", "headers": raw, "method": "POST"}, receive)


async def read(chunks: Iterable[bytes], budget: ByteBudget | None = None, **headers: Any) -> Form:
    async with receive_form(
        request(chunks, **headers), LIMITS, budget or ByteBudget(1 << 20)
    ) as form:
        return form


async def test_reads_files_and_fields_in_order() -> None:
    body = part("file", b"one\r\n--c") + part("threshold", b"0.5", file=False) + part("file", b"")
    form = await read([body + b"--b--\r\n"])
    assert [(file.field_name, file.data) for file in form.files] == [
        ("file", b"one\r\n--c"),
        ("file", b""),
    ]
    assert form.fields == {"threshold": "0.5"}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
async def test_the_size_of_chunks_does_not_matter(size: int) -> None:
    data = bytes(range(256)) * 3 + b"\r\n--\r\n-b\r\n--"
    body = part("file", data) + b"--b--\r\n"
    form = await read([body[at : at + size] for at in range(0, len(body), size)])
    assert form.files[0].data == data


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "application/json",
        "multipart/mixed; boundary=b",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'b' * 71}",
    ],
)
async def test_refuses_a_body_that_is_not_a_form(kind: str | None) -> None:
    with pytest.raises(InvalidRequest):
        await read([part("file", b"x") + b"--b--\r\n"], kind=kind)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"no form at all",
        part("file", b"x"),
        part("file", b"x") + b"--b",
        part("file", b"x")[:-9],
        part(None, b"x") + b"--b--\r\n",
        part("", b"x") + b"--b--\r\n",
        part("file", b"x") * 3 + b"--b--\r\n",
        part("a", b"x", file=False) + part("b", b"x", file=False) + part("c", b"x", file=False),
        part("a", b"x" * 1025, file=False) + b"--b--\r\n",
        b"--b\r\nno colon here\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n" + b"X-Header: y\r\n" * 50 + b"\r\nx\r\n--b--\r\n",
        b"--b\r\nX-Header: " + b"y" * 3500 + b"\r\n\r\nx\r\n--b\r\nX: " + b"y" * 3500,
        b"--b\r\n\r\nno headers\r\n--b--\r\n",
    ],
    ids=[
        "nothing",
        "first-boundary-only",
        "text",
        "no-last-boundary",
        "half-a-last-boundary",
        "cut-in-the-headers",
        "no-name",
        "empty-name",
        "too-many-files",
        "too-many-fields",
        "field-too-long",
        "bad-header",
        "many-headers",
        "huge-header",
        "no-headers",
    ],
)
async def test_refuses_a_damaged_form(body: bytes) -> None:
    budget = ByteBudget(1 << 20)
    with pytest.raises(InvalidRequest):
        await read([body], budget)
    assert budget.used_bytes == 0


class TestLimits:
    async def test_a_declared_length_is_enough_to_refuse(self) -> None:
        unread = request([], content_length=str(LIMITS.max_body_bytes + 1))
        with pytest.raises(BodyTooLarge):
            async with receive_form(unread, LIMITS, ByteBudget(1)):
                pass

    async def test_an_undeclared_length_is_counted(self) -> None:
        sent: list[int] = []

        def endless() -> Iterable[bytes]:
            yield part("file", b"")[:-2]
            while True:
                sent.append(1)
                yield b"x" * 1024

        asked = Request(
            {"type": "http", "headers": [(b"content-type", FORM.encode())]},
            _receiving(endless()),
        )
        with pytest.raises(BodyTooLarge):
            async with receive_form(asked, LIMITS, ByteBudget(1 << 20)):
                pass
        assert len(sent) == LIMITS.max_body_bytes // 1024

    async def test_a_file_that_is_too_large_affects_no_other(self) -> None:
        body = part("f", b"x" * 2001) + part("f", b"y") + b"--b--\r\n"
        form = await read([body])
        assert [file.data for file in form.files] == [None, b"y"]

    async def test_uploads_share_a_budget(self) -> None:
        budget = ByteBudget(3000)
        body = part("file", b"x" * 1500) + b"--b--\r\n"
        async with receive_form(request([body]), LIMITS, budget):
            assert budget.used_bytes == len(body)
            with pytest.raises(Overloaded):
                await read([body], budget)
        assert budget.used_bytes == 0
        assert await read([body], budget)

    async def test_a_slow_upload_times_out(self) -> None:
        async def never() -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

        asked = Request({"type": "http", "headers": [(b"content-type", FORM.encode())]}, never)
        limits = FormLimits(max_body_bytes=10, max_file_bytes=10, max_files=1, timeout_s=0.01)
        with pytest.raises(BodyTooSlow):
            async with receive_form(asked, limits, ByteBudget(1)):
                pass

    async def test_a_caller_that_disconnects_frees_its_bytes(self) -> None:
        budget = ByteBudget(1 << 20)
        asked = Request(
            {"type": "http", "headers": [(b"content-type", FORM.encode())]},
            _receiving([part("file", b"x" * 100)]),
        )
        with pytest.raises(ClientDisconnect):
            async with receive_form(asked, LIMITS, budget):
                pass
        assert budget.used_bytes == 0


async def test_nothing_is_written_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starlette's parser writes large uploads to temporary files."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a temporary file was made")

    for name in ("SpooledTemporaryFile", "TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    big = FormLimits(max_body_bytes=8 << 20, max_file_bytes=8 << 20, max_files=1)
    body = part("file", b"x" * (4 << 20)) + b"--b--\r\n"
    async with receive_form(request([body]), big, ByteBudget(8 << 20)) as form:
        assert form.files[0].data == b"x" * (4 << 20)


def test_errors_do_not_quote_the_body() -> None:
    secret = b"Doe^Jane"
    with pytest.raises(HilumError) as caught:
        asyncio.run(read([b"--b\r\n" + secret + b"\r\n\r\n"]))
    assert secret.decode() not in caught.value.message + caught.value.hint


def _receiving(chunks: Iterable[bytes]) -> Any:
    waiting = iter(chunks)

    async def receive() -> dict[str, Any]:
        for chunk in waiting:
            return {"type": "http.request", "body": chunk, "more_body": True}
        return {"type": "http.disconnect"}

    return receive
