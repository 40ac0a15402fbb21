"""HTTP applications for tests, over a real detection service with a scripted engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol

import httpx
import numpy as np
from fastapi import FastAPI
from starlette.types import ASGIApp

from edge_agent.core.findings import BOX_ROWS
from edge_agent.core.lifecycle import Lifecycle
from edge_agent.core.request_origin import parse_trusted_hosts
from edge_agent.decoding.decoder import ThreadDecoder
from edge_agent.engines.base import Pixels, RawOutputs
from edge_agent.imaging import Limits
from edge_agent.security.authentication import Authenticator
from edge_agent.serving.http.access import HttpAccessControl
from edge_agent.serving.http.app import create_http_app
from edge_agent.serving.http.converters import to_model_info
from edge_agent.serving.http.endpoints import Detector, HttpLimits
from edge_agent.serving.http.server import HttpServer
from edge_agent.serving.model_host import ModelHost
from edge_agent.serving.render import Renderer
from hilum.catalog import BY_SLUG, CATALOG
from tests.support.agents.tagged import SIDE, fake_pipeline, settings

HOST = "127.0.0.1:8080"
SCRIPTED_FINDINGS = (
    # slug, score, box in fractions of the model's input; operating points are 0.25
    ("nodule_mass", 0.81, (0.60, 0.38, 0.72, 0.48)),
    ("nodule_mass", 0.62, (0.24, 0.32, 0.38, 0.42)),
    ("lung_opacity", 0.47, (0.58, 0.36, 0.75, 0.52)),
    ("cardiomegaly", 0.33, (0.36, 0.52, 0.72, 0.80)),
    ("pleural_effusion", 0.20, (0.14, 0.62, 0.32, 0.78)),
    ("pneumothorax", 0.09, (0.60, 0.10, 0.82, 0.28)),
)
"""The findings of `ScriptedEngine` on every image."""


class ScriptedEngine:
    """An engine that returns the same findings for every image."""

    name = "fake"
    compute_device = "memory"

    def infer(self, batch: Pixels) -> RawOutputs:
        outputs = np.zeros(
            (len(batch), BOX_ROWS + len(CATALOG), len(SCRIPTED_FINDINGS)), np.float32
        )
        for anchor, (slug, score, (left, top, right, bottom)) in enumerate(SCRIPTED_FINDINGS):
            centre = (left + right) / 2, (top + bottom) / 2
            outputs[:, :BOX_ROWS, anchor] = np.array(
                [*centre, right - left, bottom - top], np.float32
            ) * np.float32(SIDE)
            outputs[:, BOX_ROWS + BY_SLUG[slug].index, anchor] = score
        return outputs

    def close(self) -> None: ...


class DetectorWithModel(Detector, Protocol):
    """A detector and its models."""

    host: ModelHost


def serving_lifecycle() -> Lifecycle:
    """Return the life cycle of an agent that serves."""
    lifecycle = Lifecycle()
    lifecycle.loaded()
    return lifecycle


def http_app(service: DetectorWithModel | None = None, /, **changes: Any) -> FastAPI:
    """Return an application that needs no key; `changes` go to `create_http_app`."""
    serving = service or fake_pipeline(settings())
    renderer = Renderer(ThreadDecoder(1, Limits()))
    arguments: dict[str, Any] = {
        "get_service": lambda: serving,
        "renderer": lambda: renderer,
        "model_info": lambda name: to_model_info(serving.host.find(name).model),
        "lifecycle": serving_lifecycle(),
        "metrics": lambda: b"# TYPE up gauge\nup 1\n",
        "access": HttpAccessControl(Authenticator("HTTP", "127.0.0.1", tls=False)),
        "trusted_hosts": parse_trusted_hosts("http"),
        "limits": HttpLimits(),
    }
    return create_http_app(**(arguments | changes))


@asynccontextmanager
async def caller(app: FastAPI, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client of the application without a network."""
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 50000))
    base = f"http://{HOST}"
    async with httpx.AsyncClient(transport=transport, base_url=base, headers=headers) as client:
        yield client


@asynccontextmanager
async def serve_app(app: ASGIApp) -> AsyncIterator[str]:
    """Serve the application on a real port; yields its origin."""
    server = HttpServer(app, host="127.0.0.1", port=0)
    await server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await server.drain()
        await server.stop()


@contextmanager
def serve_in_thread(make: Callable[[], ASGIApp]) -> Iterator[str]:
    """Serve as `serve_app` does, in a thread, for tests that block."""
    stop = threading.Event()
    started: list[str] = []
    ready = threading.Event()

    async def serve() -> None:
        async with serve_app(make()) as origin:
            started.append(origin)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="served-apart")
    thread.start()
    try:
        assert ready.wait(30), "the server did not start"
        yield started[0]
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def file_form(data: bytes, field: str = "file") -> dict[str, Any]:
    """Return keyword arguments for httpx that send one file."""
    return {"files": {field: ("image", data)}}
