"""One real radiograph in several formats, and a client for an agent that is sent it."""

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
from tests.support.images.damaged import write_raster

SCORE_WITHIN: Final = 0.02
BOX_WITHIN: Final = 0.01
"""A fraction of the image. Engines that compute in batches differ in the last digits."""
MAX_MESSAGE_BYTES: Final = 300 << 20

DetectedFindings = tuple[tuple[str, float, tuple[float, ...]], ...]
"""Class, score and box (fractions of the image) of each finding."""


@cache
def make_sound_files() -> dict[str, bytes]:
    """Return RG1, a real chest radiograph, in the formats that clinics send, by name."""
    dicom = pydicom_file("RG1_UNCI.dcm").read_bytes()
    pixels = read_study(dicom)[0].pixels
    half = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return {
        "dicom": dicom,
        "jpeg-2000": pydicom_file("RG1_J2KI.dcm").read_bytes(),
        "png": write_raster(pixels, "PNG"),
        "jpeg": write_raster(pixels, "JPEG", quality=90),
        "jpeg-half": write_raster(half, "JPEG", quality=85),
    }


def are_equal(one: DetectedFindings, other: DetectedFindings) -> bool:
    """Return whether two answers contain the same findings, within the tolerances."""
    return len(one) == len(other) and all(
        a[0] == b[0]
        and abs(a[1] - b[1]) <= SCORE_WITHIN
        and all(abs(x - y) <= BOX_WITHIN for x, y in zip(a[2], b[2], strict=True))
        for a, b in zip(sorted(one), sorted(other), strict=True)
    )


@dataclass(eq=False)
class RequestFailed(Exception):
    """A failed request: code (empty if it has none), the transport's status, delay of a retry."""

    code: str
    status: str
    retry_after_s: float | None = None


@dataclass
class AgentClient:
    """A client of one agent, over both transports. Every method raises RequestFailed."""

    stub: Any
    http: httpx.AsyncClient

    async def detect_over_grpc(
        self, image: bytes, *, stat: bool = False, timeout_s: float | None = 60, name: str = ""
    ) -> DetectedFindings:
        """Detect in one image."""
        priority = pb.PRIORITY_STAT if stat else pb.PRIORITY_ROUTINE
        request = pb.DetectRequest(
            request_id=name, image=image, options=pb.DetectOptions(priority=priority)
        )
        try:
            return parse_findings(await self.stub.Detect(request, timeout=timeout_s), name)
        except grpc.aio.AioRpcError as error:
            raise parse_grpc_failure(error) from None

    async def detect_over_stream(
        self, images: list[bytes]
    ) -> list[DetectedFindings | RequestFailed]:
        """Detect in several images over one stream; return the results in the order sent."""

        async def requests() -> AsyncIterator[pb.DetectRequest]:
            for number, image in enumerate(images):
                yield pb.DetectRequest(request_id=str(number), image=image)

        answers: dict[str, DetectedFindings | RequestFailed] = {}
        try:
            async for outcome in self.stub.DetectStream(requests(), timeout=120):
                name = outcome.request_id
                answers[name] = (
                    parse_findings(outcome.response, name)
                    if outcome.WhichOneof("outcome") == "response"
                    else RequestFailed(outcome.error.code, "in the stream")
                )
        except grpc.aio.AioRpcError as error:
            failed = parse_grpc_failure(error)
            return [answers.get(str(number), failed) for number in range(len(images))]
        return [answers[str(number)] for number in range(len(images))]

    async def detect_over_http(
        self, image: bytes, *, stat: bool = False, path: str = "/predict", name: str = ""
    ) -> DetectedFindings:
        """Detect in one image, sent as a form."""
        options = {"priority": "stat" if stat else "routine"} | (
            {"request_id": name} if name else {}
        )
        response = await self.http.post(path, files={"file": ("x", image)}, data=options)
        return _predictions(response, name)

    async def detect_over_http_cheaply(
        self, image: bytes, *, stat: bool = False, name: str = ""
    ) -> DetectedFindings:
        """Detect as `detect_over_http` does, with a tenth of its processor time in this process."""
        options = {"priority": "stat" if stat else "routine", "request_id": name}
        body, headers = _form(image)
        response = await self.http.post("/predict", content=body, headers=headers, params=options)
        return _predictions(response, name)

    async def render(self, image: bytes) -> bytes:
        """Return the image with its findings drawn."""
        response = await self.http.post("/render", files={"file": ("x", image)})
        if response.status_code != httpx.codes.OK:
            raise parse_http_failure(response)
        return response.content


@asynccontextmanager
async def connect_client(agent: LiveAgent) -> AsyncIterator[AgentClient]:
    """Connect to an agent: over one connection with gRPC, over many with HTTP."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    options = [("grpc.max_send_message_length", MAX_MESSAGE_BYTES)]
    async with (
        httpx.AsyncClient(base_url=agent.page, timeout=120, limits=limits) as http,
        grpc.aio.insecure_channel(agent.address, options=options) as channel,
    ):
        yield AgentClient(detection_pb2_grpc.DetectorStub(channel), http)


def parse_findings(response: pb.DetectResponse, name: str = "") -> DetectedFindings:
    """Return the findings of a gRPC answer, which must carry the request's name, if it has one."""
    assert not name or response.request_id == name
    height, width = response.image.rows, response.image.columns
    return tuple(
        (
            finding.slug,
            finding.score,
            (
                finding.box.x_min / width,
                finding.box.y_min / height,
                finding.box.x_max / width,
                finding.box.y_max / height,
            ),
        )
        for finding in response.findings
    )


@cache
def _form(image: bytes) -> tuple[bytes, dict[str, str]]:
    request = httpx.Request("POST", "http://agent/", files={"file": ("x", image)})
    return request.read(), {"Content-Type": request.headers["content-type"]}


def _predictions(response: httpx.Response, name: str) -> DetectedFindings:
    if response.status_code != httpx.codes.OK:
        raise parse_http_failure(response)
    body = response.json()
    assert not name or body["request_id"] == name
    return tuple(
        (finding["class"], finding["confidence"], tuple(finding["bbox"]))
        for finding in body["predictions"]
    )


def parse_grpc_failure(error: grpc.RpcError) -> RequestFailed:
    """Return the failure of a call: its status, and the coded error in its metadata."""
    metadata = dict(error.trailing_metadata() or ())
    code = ""
    if "hilum-error-bin" in metadata:
        code = pb.Error.FromString(metadata["hilum-error-bin"]).code
    wait_ms = metadata.get("hilum-retry-after-ms")
    return RequestFailed(code, error.code().name, None if wait_ms is None else int(wait_ms) / 1e3)


def parse_http_failure(response: httpx.Response) -> RequestFailed:
    """Return the failure of a request: its status, and the coded error in its body."""
    try:
        code = str(response.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        code = ""
    wait_s = response.headers.get("retry-after")
    return RequestFailed(code, str(response.status_code), None if wait_s is None else float(wait_s))
