"""Both clients against a real agent in its own process."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hilum.client import Client, DetectError, ErrorCode, Result
from tests.conftest import pydicom_file
from tests.support.agents.scripted import CLIENT_TYPES
from tests.support.agents.tagged import (
    SIDE,
    agent_process,
    serving_line,
    tagged_png,
    write_toy_bundle,
)

pytestmark = pytest.mark.slow

each_client_type = pytest.mark.parametrize("client_type", CLIENT_TYPES)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy.bundle")


@pytest.fixture(scope="module")
def serving_agent(toy: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with agent_process("--bundle", str(toy), "--port", "0") as process:
        yield process, serving_line(process)["address"]


@pytest.fixture(scope="module")
def address(serving_agent: tuple[subprocess.Popen[str], str]) -> str:
    return serving_agent[1]


def tag_of(outcome: Result | DetectError) -> int:
    """Return the tag: the toy model's score is the brightest pixel, which is the tag."""
    assert isinstance(outcome, Result), outcome
    [finding] = outcome.findings
    assert finding.slug == "nodule_mass"
    assert finding.box.fractions(outcome.image) == pytest.approx((0.375, 0.375, 0.625, 0.625))
    return round(finding.score * 255)


@each_client_type
def test_the_agent_is_ready_and_describes_its_model(client_type: Any, address: str) -> None:
    client = client_type(address)
    assert client.ready(60)
    model = client.model()
    assert (model.name, model.engine, model.input_width) == ("toy", "openvino-fp32", SIDE)
    assert len(model.findings) == 14


@each_client_type
def test_a_real_radiograph_is_answered(client_type: Any, address: str) -> None:
    path = pydicom_file("RG1_UNCI.dcm")
    result = client_type(address).detect(path, threshold=0.01)
    assert result.image.format == "dicom"
    assert result.image.rows > 1000
    assert result.engine == "openvino-fp32"
    assert result.timings.total_ms > 0
    assert result.bundle_digest == client_type(address).model().bundle_digest


@each_client_type
def test_an_ankle_and_noise_are_refused_with_their_codes(client_type: Any, address: str) -> None:
    images = [
        ("ankle", pydicom_file("RG3_UNCI.dcm")),
        ("noise", b"not an image at all"),
        ("empty", b""),
        ("good", tagged_png(200)),
    ]
    outcomes = dict(client_type(address).detect_many(images))
    assert tag_of(outcomes.pop("good")) == 200
    assert {name: error.code for name, error in outcomes.items()} == {
        "ankle": ErrorCode.BODY_PART_NOT_CHEST,
        "noise": ErrorCode.NOT_AN_IMAGE,
        "empty": ErrorCode.EMPTY_FILE,
    }
    with pytest.raises(DetectError) as caught:
        client_type(address).detect(images[0][1])
    assert caught.value.code == ErrorCode.BODY_PART_NOT_CHEST
    assert caught.value.hint


@each_client_type
def test_each_of_many_images_gets_its_own_findings(client_type: Any, address: str) -> None:
    images = [((tag, number), tagged_png(tag)) for number in range(2) for tag in range(115, 255)]
    outcomes = client_type(address).detect_many(images, concurrency=16)
    assert len(outcomes) == len(images)
    assert all(tag_of(outcome) == tag for (tag, _turn), outcome in outcomes)


@each_client_type
def test_an_image_over_the_agents_limit_fails_alone(
    client_type: Any, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HILUM_EDGE__LIMITS__MAX_IMAGE_BYTES", str(1 << 20))
    large = bytes(2 << 20)
    images = [(tag, tagged_png(tag)) for tag in range(150, 158)]
    images[2:2] = [(1, large)]
    images += [(2, large), (3, large + b"x")]
    with agent_process("--bundle", str(toy), "--port", "0") as process:
        outcomes = list(client_type(serving_line(process)["address"]).detect_many(images))
    assert sorted(key for key, _ in outcomes) == sorted(key for key, _ in images)
    found = dict(outcomes)
    assert all(tag_of(found[tag]) == tag for tag in range(150, 158))
    assert {getattr(found[key], "code", None) for key in (1, 2, 3)} == {ErrorCode.TOO_LARGE}


def test_more_callers_than_the_queue_holds_are_all_answered(toy: Path) -> None:
    """The queue is much too short, so the client retries."""
    short_queue = {"HILUM_EDGE__LIMITS__QUEUE_SIZE": "1"}
    options = ("--bundle", str(toy), "--port", "0")
    with agent_process(*options, environment=short_queue) as process:
        address = serving_line(process)["address"]
        tags = range(115, 255)
        with Client(address) as client, ThreadPoolExecutor(16) as threads:
            results = list(threads.map(lambda tag: client.detect(tagged_png(tag)), tags))
    assert [tag_of(result) for result in results] == list(tags)


def test_a_stopping_agent_gives_no_image_a_wrong_answer(toy: Path) -> None:
    outcomes: list[tuple[int, Result | DetectError]] = []

    def images_without_end(process: subprocess.Popen[str]) -> Iterator[tuple[int, bytes]]:
        for number in count():
            if number == 20:
                process.send_signal(signal.SIGTERM)
            tag = 115 + number % 140
            yield tag, tagged_png(tag)

    with agent_process("--bundle", str(toy), "--port", "0") as process:
        address = serving_line(process)["address"]
        with Client(address) as client, pytest.raises(DetectError) as caught:
            outcomes.extend(client.detect_many(images_without_end(process)))
        assert caught.value.retryable
        assert process.wait(60) == 0
    answered = [(tag, outcome) for tag, outcome in outcomes if isinstance(outcome, Result)]
    assert all(tag_of(outcome) == tag for tag, outcome in answered)
    assert len(answered) >= 16
    codes = {outcome.code for _, outcome in outcomes if isinstance(outcome, DetectError)}
    assert codes <= {ErrorCode.NOT_READY}
