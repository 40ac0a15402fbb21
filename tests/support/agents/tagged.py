"""Agents for tests, with an engine that reads the result from the image, or with a tiny model.

A tagged image is a PNG whose one bright square's grey value is its tag (see `FakeEngine`). The
response to it must be a finding of class `tag % 14` with score `tag / 255` in that square, so a
response shows which request it belongs to.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
import zipfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import openvino as ov
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from openvino import opset13 as ops

from edge_agent.app.agent import Agent
from edge_agent.app.models import ServiceFactory, image_limits
from edge_agent.config import Settings, load_settings
from edge_agent.core.engine_selection import BatchPolicy
from edge_agent.decoding.decoder import Decoder, ThreadDecoder
from edge_agent.engines.base import Engine, Pixels
from edge_agent.engines.model import LoadedModel
from edge_agent.errors import EngineFailed
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.model_host import ModelHost
from hilum.catalog import CATALOG
from hilum.manifest import GoldenCases, Manifest
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc
from tests.support.engines.fake_engine import FakeEngine, paint

SIDE = 128
DIGEST = "d" * 64
SLUGS = [finding.slug for finding in CATALOG]
SQUARE = (32, 48, 96, 112)


def tagged_png(tag: int) -> bytes:
    """Return an image whose finding carries `tag` (115 to 254)."""
    return cv2.imencode(".png", paint(SIDE, SIDE, tag, SQUARE))[1].tobytes()


def tag_of(response: pb.DetectResponse) -> int:
    """Return the tag of the image that a response belongs to."""
    (finding,) = response.findings
    tag = round(finding.score * 255)
    assert finding.index == tag % 14
    box = finding.box
    assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx(SQUARE, abs=0.01)
    return tag


def manifest(engine: str = "fake", **changes: Any) -> Manifest:
    """Return the manifest of a bundle with one engine variant."""
    member = {"sha256": "0" * 64, "size_bytes": 1}
    fields: dict[str, Any] = {
        "name": "toy",
        "version": "0.0.1",
        "intended_use": "Tests only.",
        "findings": SLUGS,
        "input": {"height": SIDE, "width": SIDE},
        "head": {"score_floor": 0.05},
        "engines": [
            {
                "name": engine,
                "runtime": "openvino",
                "precision": "fp32",
                "model": "model.xml",
                "weights": "model.bin",
                "operating_points": dict.fromkeys(SLUGS, 0.25),
            }
        ],
        "golden_cases": "golden/cases.json",
        "model_card": "model_card.md",
        "provenance": {
            "trained_on": "nothing",
            "command": "none",
            "seed": 0,
            "base_weights": "none",
        },
        "files": dict.fromkeys(
            ["model.xml", "model.bin", "golden/cases.json", "model_card.md"], member
        ),
    }
    return Manifest.model_validate(fields | changes)


class Latch:
    """A latch that holds every image in the engine until the test releases its tag."""

    def __init__(self) -> None:
        self._arrived: dict[int, threading.Event] = defaultdict(threading.Event)
        self._open: dict[int, threading.Event] = defaultdict(threading.Event)

    def __call__(self, batch: Pixels) -> None:
        tag = int(batch.max())
        self._arrived[tag].set()
        assert self._open[tag].wait(60), f"the test did not release {tag}"

    async def wait_for_arrival(self, tag: int) -> None:
        """Wait until the engine has started with this image."""
        assert await asyncio.to_thread(self._arrived[tag].wait, 60), f"{tag} never arrived"

    def has_arrived(self, tag: int) -> bool:
        """Return True if the engine has started with this image."""
        return self._arrived[tag].is_set()

    def release(self, *tags: int) -> None:
        """Release these images."""
        for tag in tags:
            self._open[tag].set()


@cache
def _state_folder() -> str:
    """Return a state folder for the agents of this process, which is removed at its end."""
    folder = tempfile.mkdtemp(prefix="hilum-state-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def settings(**nested: Any) -> Settings:
    """Return settings of an agent: gRPC on a free port, decoding in threads, no audit log."""
    nested.setdefault("state_dir", _state_folder())
    nested["grpc"] = {"port": 0} | nested.get("grpc", {})
    nested["http"] = {"enabled": False, "port": 0} | nested.get("http", {})
    nested["audit"] = {"enabled": False} | nested.get("audit", {})
    nested["decode"] = {"workers": 0} | nested.get("decode", {})
    return load_settings(None, nested)


class FakeGolden:
    """A golden case without findings, which cannot be read where a test sets a problem."""

    def __init__(self, declared: Manifest, find_problem: Callable[[], str]) -> None:
        self.manifest = declared
        name = declared.engines[0].name
        case = {"name": "black", "image": "golden/black.png", "expected": {name: []}}
        tolerance = {"score": 0.01, "min_iou": 0.9}
        self.golden = GoldenCases.model_validate({"tolerances": {name: tolerance}, "cases": [case]})
        self._find_problem = find_problem

    def read(self, member: str) -> bytes:
        if problem := self._find_problem():
            raise EngineFailed(problem)
        return cv2.imencode(".png", np.zeros((SIDE, SIDE), np.uint8))[1].tobytes()


def fake_pipeline(
    settings: Settings,
    decoder: Decoder | None = None,
    engine: Engine | None = None,
    *,
    infer_concurrency: int = 1,
    max_batch: int = 1,
    find_problem: Callable[[], str] | None = None,
) -> DetectionService:
    """Return a detection service whose engine reads the result from the image's pixels.

    `find_problem` is called by each self-test, which fails with the problem unless it is empty.
    """
    declared = manifest()
    engine = engine or FakeEngine(SIDE, SIDE)
    model = LoadedModel(
        declared,
        DIGEST,
        declared.engines[0],
        engine,
        "a test",
        BatchPolicy(max_batch=max_batch, parallel_requests=infer_concurrency),
        golden=FakeGolden(declared, find_problem) if find_problem else None,
    )
    return DetectionService(
        ModelHost([model]),
        decoder or ThreadDecoder(2, image_limits(settings)),
        queue_size=settings.limits.queue_size,
    )


def in_flight(service: DetectionService) -> int:
    """Return the number of requests that wait or run."""
    stats = service.stats()
    return stats.running + sum(stats.queued.values())


class LatchedPipeline:
    """A factory of services whose engine holds up to `parallel_requests` images at a latch."""

    def __init__(self, parallel_requests: int = 1) -> None:
        self.latch = Latch()
        self.service: DetectionService | None = None
        self._parallel_requests = parallel_requests

    def __call__(self, settings: Settings, decoder: Decoder) -> DetectionService:
        engine = FakeEngine(SIDE, SIDE, before=self.latch)
        self.service = fake_pipeline(
            settings, decoder, engine, infer_concurrency=self._parallel_requests
        )
        return self.service

    @property
    def in_flight(self) -> int:
        assert self.service
        return in_flight(self.service)


@asynccontextmanager
async def running_agent(
    settings: Settings, load: ServiceFactory = fake_pipeline
) -> AsyncIterator[Agent]:
    """Run a real agent in this process, and wait until it serves."""
    agent = Agent(settings, load)
    await agent.start()
    try:
        await agent.load()
        yield agent
    finally:
        assert await agent.stop()


def open_channel(agent: Agent) -> grpc.aio.Channel:
    """Open a connection to the agent."""
    return grpc.aio.insecure_channel(agent.address)


@asynccontextmanager
async def open_detector(agent: Agent) -> AsyncIterator[detection_pb2_grpc.DetectorStub]:
    """Open a connection to the agent's detector."""
    async with open_channel(agent) as channel:
        yield detection_pb2_grpc.DetectorStub(channel)


def hilum_error(error: grpc.RpcError) -> pb.Error:
    """Return the error in the metadata of a failed call."""
    metadata = dict(error.trailing_metadata() or ())
    return pb.Error.FromString(metadata["hilum-error-bin"])


async def eventually(condition: Callable[[], bool], within_s: float = 30) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.005)


def write_toy_bundle(
    path: Path, *, side: int = SIDE, golden_score: float = 1.0, **changes: Any
) -> Path:
    """Write a bundle whose model reports a nodule with the brightest pixel as its score.

    Args:
        path: where to write it.
        side: height and width of the model's input.
        golden_score: the recorded score; the model does not reproduce any but 1.
        changes: fields of the manifest.
    """
    pixels = ops.parameter([1, 1, side, side], np.uint8, name="pixels")
    grey = ops.divide(ops.convert(pixels, np.float32), np.float32(255))
    brightest = ops.reduce_max(grey, np.array([1, 2, 3]), keep_dims=False)
    only = np.zeros((1, 4 + len(CATALOG), 16), np.float32)
    only[0, 4 + SLUGS.index("nodule_mass"), 0] = 1
    box = np.zeros_like(only)
    box[0, :4, 0] = side / 2, side / 2, side / 4, side / 4
    outputs = ops.add(ops.multiply(ops.unsqueeze(ops.unsqueeze(brightest, 1), 2), only), box)
    xml = path.with_suffix(".xml")
    ov.serialize(ov.Model([outputs], [pixels], "toy"), xml)
    case = paint(side, side, 255, (0, 0, side, side))
    corners = tuple(round(side * share) for share in (0.375, 0.375, 0.625, 0.625))
    finding = {"finding": "nodule_mass", "score": golden_score, "box": corners}
    golden = GoldenCases.model_validate(
        {
            "tolerances": {"openvino-fp32": {"score": 0.01, "min_iou": 0.9}},
            "cases": [
                {
                    "name": "white",
                    "image": "golden/white.png",
                    "expected": {"openvino-fp32": [finding]},
                }
            ],
        }
    )
    members = {
        "model.xml": xml.read_bytes(),
        "model.bin": xml.with_suffix(".bin").read_bytes(),
        "golden/white.png": cv2.imencode(".png", case)[1].tobytes(),
        "golden/cases.json": golden.to_bytes(),
        "model_card.md": b"# Toy\n\nFor tests only.\n",
    }
    listed = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        for name, data in members.items()
    }
    fields = {"files": listed, "input": {"height": side, "width": side}} | changes
    members["manifest.json"] = manifest("openvino-fp32", **fields).to_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@contextmanager
def agent_process(
    *options: str, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run `hilum-edge serve` as a process with its log on a pipe; kill it at the end.

    Its HTTP port is a free one, its audit log is in a temporary folder, and the engine selection
    that it measured is kept for the next process.
    """
    command = [sys.executable, "-m", "edge_agent.cli.main", "serve", *options]
    with tempfile.TemporaryDirectory(prefix="hilum-state-") as state:
        cache = Path(tempfile.gettempdir()) / f"hilum-tests-{os.getuid()}"
        own_settings = {
            "HILUM_EDGE__HTTP__PORT": "0",
            "HILUM_EDGE__STATE_DIR": state,
            "HILUM_EDGE__CACHE_DIR": str(cache),
        }
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | own_settings | (environment or {}),
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            assert process.stderr
            process.stderr.close()


def serving_line(process: subprocess.Popen[str]) -> dict[str, str]:
    """Wait for the log line `serving` and return its `key=value` pairs."""
    assert process.stderr
    for line in process.stderr:
        if " serving " in line:
            return dict(pair.split("=", 1) for pair in shlex.split(line) if "=" in pair)
    raise AssertionError("the agent ended before it served")


def wait_serving(channel: grpc.Channel, service: str = "") -> None:
    """Wait until the health service reports SERVING."""
    health = health_pb2_grpc.HealthStub(channel)
    watch = health.Watch(
        health_pb2.HealthCheckRequest(service=service), timeout=60, wait_for_ready=True
    )
    next(s for s in watch if s.status == health_pb2.HealthCheckResponse.SERVING)
    watch.cancel()


@contextmanager
def logging_restored() -> Iterator[None]:
    """Restore the process's logging after `configure_logging`."""
    root, agent, pydicom = map(logging.getLogger, (None, "edge_agent", "pydicom"))
    before = root.handlers[:], root.level, agent.level, pydicom.handlers[:], pydicom.propagate
    with warnings.catch_warnings():
        yield
    root.handlers[:], pydicom.handlers[:] = before[0], before[3]
    root.setLevel(before[1])
    agent.setLevel(before[2])
    pydicom.propagate = before[4]
