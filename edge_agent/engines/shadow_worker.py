"""The process of a shadow model: opens the engine, runs its golden cases, then detects."""

from __future__ import annotations

import json
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from edge_agent.core.findings import OutputsInvalid, decode_findings
from edge_agent.core.geometry import Letterbox
from edge_agent.engines.base import Engine
from edge_agent.engines.selection.probe import ProbeJob
from edge_agent.engines.selection.probe_worker import describe_error, open_candidate, send_answer
from edge_agent.errors import EngineFailed
from hilum.manifest import Manifest


def serve(channel: Connection[bytes, bytes]) -> None:
    """Open the engine and answer each image with its findings.

    A request is the original image's rows and columns, followed by the model's input.
    """
    try:
        bundle, engine, ready = open_candidate(ProbeJob(**json.loads(channel.recv_bytes())))
    except Exception as error:  # noqa: BLE001  # any library's error is sent as the answer
        return send_answer(channel, describe_error(error))
    send_answer(channel, asdict(ready))
    while True:
        size = json.loads(channel.recv_bytes())
        pixels = channel.recv_bytes()
        try:
            answer = {"findings": _detect(bundle.manifest, engine, size, pixels)}
        except Exception as error:  # noqa: BLE001  # any library's error is sent as the answer
            answer = describe_error(error)
        send_answer(channel, answer)


def _detect(
    manifest: Manifest, engine: Engine, size: dict[str, int], pixels: bytes
) -> list[list[Any]]:
    """Return index, score and box of each finding from the head's floor."""
    height, width = manifest.input.height, manifest.input.width
    image = np.frombuffer(pixels, np.uint8).reshape(1, 1, height, width)
    letterbox = Letterbox.fit(size["rows"], size["columns"], height, width)
    thresholds = [manifest.head.score_floor] * len(manifest.findings)
    try:
        findings = decode_findings(
            engine.infer(image)[0],
            letterbox,
            manifest.head,
            thresholds,
            manifest.catalogue_indexes,
        )
    except OutputsInvalid as error:
        raise EngineFailed(f"{engine.name} gave no sound outputs: {error}.") from error
    return [
        [it.index, it.score, it.box.x_min, it.box.y_min, it.box.x_max, it.box.y_max]
        for it in findings
    ]
