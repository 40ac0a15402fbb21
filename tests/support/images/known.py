"""One real radiograph in several forms; asking an agent for it, and whether the answer is right."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import cv2
import grpc
import httpx

from edge_agent.imaging import read_study
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc
from tests.conftest import pydicom_file
from tests.support.agents.live import LiveAgent
from tests.support.images.damaged import picture_file

SCORE_WITHIN: Final = 0.02
BOX_WITHIN: Final = 0.01
"""As a fraction of the image: engines that compute in batches differ in the last digits."""
MAX_MESSAGE_BYTES: Final = 300 << 20

Seen = tuple[tuple[str, float, tuple[float, ...]], ...]
"""Class, score and box (fractions of the image) of each finding."""


@cache
def sound_files() -> dict[str, bytes]:
    """RG1, a real chest radiograph, in the forms that clinics send, by name."""
    dicom = pydicom_file("RG1_UNCI.dcm").read_bytes()
    pixels = read_study(dicom)[0].pixels
    half = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return {
        "dicom": dicom,
        "jpeg-2000": pydicom_file("RG1_J2KI.dcm").read_bytes(),
        "png": picture_file(pixels, "PNG"),
        "jpeg": picture_file(pixels, "JPEG", quality=90),
        "jpeg-half": picture_file(half, "JPEG", quality=85),
    }


def same(one: Seen, other: Seen) -> bool:
    """Whether two answers say the same."""
    return len(one) == len(other) and all(
        a[0] == b[0]
        and abs(a[1] - b[1]) <= SCORE_WITHIN
        and all(abs(x - y) <= BOX_WITHIN for x, y in zip(a[2], b[2], strict=True))
        for a, b in zip(sorted(one), sorted(other), strict=True)
    )


@dataclass(eq=False)
class Failed(Exception):
    """A failure: its code (empty if it has none), the transport's status, when to return."""

    code: str
    status: str
    retry_after_s: float | None = None


@dataclass
class Asker:
    """A caller of one agent, over both its faces."""

    stub: Any
    http: httpx.AsyncClient

    async def over_grpc(
        self, image: bytes, *, stat: bool = False, timeout_s: float | None = 60, name: str = ""
    ) -> Seen:
        """Ask; raises Failed."""
        priority = pb.PRIORITY_STAT if stat else pb.PRIORITY_ROUTINE
        request = pb.DetectRequest(
            request_id=name, image=image, options=pb.DetectOptions(priority=priority)
        )
        try:
            return seen(await self.stub.Detect(request, timeout=timeout_s), name)
        except grpc.aio.AioRpcError as error:
            raise grpc_failure(error) from None

    async def over_stream(self, images: list[bytes]) -> list[Seen | Failed]:
        """Ask for several over one stream; answers in the order sent."""

        async def requests() -> AsyncIterator[pb.DetectRequest]:
            for number, image in enumerate(images):
                yield pb.DetectRequest(request_id=str(number), image=image)

        answers: dict[str, Seen | Failed] = {}
        try:
            async for outcome in self.stub.DetectStream(requests(), timeout=120):
                name = outcome.request_id
                answers[name] = (
                    seen(outcome.response, name)
                    if outcome.WhichOneof("outcome") == "response"
                    else Failed(outcome.error.code, "in the stream")
                )
        except grpc.aio.AioRpcError as error:
            failed = grpc_failure(error)
            return [answers.get(str(number), failed) for number in range(len(images))]
        return [answers[str(number)] for number in range(len(images))]

    async def over_http(
        self, image: bytes, *, stat: bool = False, path: str = "/predict", name: str = ""
    ) -> Seen:
        """Ask; raises Failed."""
        options = {"priority": "stat" if stat else "routine"} | (
            {"request_id": name} if name else {}
        )
        got = await self.http.post(path, files={"file": ("x", image)}, data=options)
        return _predictions(got, name)

    async def over_http_quickly(self, image: bytes, *, stat: bool = False, name: str = "") -> Seen:
        """As `over_http`, at a tenth of the caller's own work; raises Failed."""
        options = {"priority": "stat" if stat else "routine", "request_id": name}
        body, headers = _form(image)
        got = await self.http.post("/predict", content=body, headers=headers, params=options)
        return _predictions(got, name)

    async def picture(self, image: bytes) -> bytes:
        """Have it drawn; raises Failed."""
        got = await self.http.post("/render", files={"file": ("x", image)})
        if got.status_code != httpx.codes.OK:
            raise http_failure(got)
        return got.content


@asynccontextmanager
async def asking(agent: LiveAgent) -> AsyncIterator[Asker]:
    """A caller of an agent; over one connection with gRPC, over many with HTTP."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    options = [("grpc.max_send_message_length", MAX_MESSAGE_BYTES)]
    async with (
        httpx.AsyncClient(base_url=agent.page, timeout=120, limits=limits) as http,
        grpc.aio.insecure_channel(agent.address, options=options) as channel,
    ):
        yield Asker(detection_pb2_grpc.DetectorStub(channel), http)


def seen(response: pb.DetectResponse, name: str = "") -> Seen:
    """What an answer over gRPC says; it must be the one to the request of this name, if any."""
    assert not name or response.request_id == name
    height, width = response.image.rows, response.image.columns
    return tuple(
        (
            it.slug,
            it.score,
            (
                it.box.x_min / width,
                it.box.y_min / height,
                it.box.x_max / width,
                it.box.y_max / height,
            ),
        )
        for it in response.findings
    )


@cache
def _form(image: bytes) -> tuple[bytes, dict[str, str]]:
    request = httpx.Request("POST", "http://agent/", files={"file": ("x", image)})
    return request.read(), {"Content-Type": request.headers["content-type"]}


def _predictions(got: httpx.Response, name: str) -> Seen:
    if got.status_code != httpx.codes.OK:
        raise http_failure(got)
    body = got.json()
    assert not name or body["request_id"] == name
    return tuple((it["class"], it["confidence"], tuple(it["bbox"])) for it in body["predictions"])


def grpc_failure(error: grpc.RpcError) -> Failed:
    """A failed call's status and the coded error beside it."""
    metadata = dict(error.trailing_metadata() or ())
    code = ""
    if "hilum-error-bin" in metadata:
        code = pb.Error.FromString(metadata["hilum-error-bin"]).code
    wait_ms = metadata.get("hilum-retry-after-ms")
    return Failed(code, error.code().name, None if wait_ms is None else int(wait_ms) / 1e3)


def http_failure(got: httpx.Response) -> Failed:
    """A failure's status and the coded error in its body."""
    try:
        code = str(got.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        code = ""
    wait_s = got.headers.get("retry-after")
    return Failed(code, str(got.status_code), None if wait_s is None else float(wait_s))
