"""A real agent answers hostile files with a code, and the next image correctly."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import grpc
import numpy as np
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

from edge_agent.imaging import read_study
from hilum.codes import ErrorCode
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc
from tests.conftest import pydicom_file
from tests.support.agents.tagged import agent_process, hilum_error, serving_line
from tests.support.images.studies import chest, data_set, dicom, written

ROUNDS = 200
CHECK_EVERY = 20


@dataclass
class RunningAgent:
    """A running agent and its findings in RG1 before any hostile file."""

    process: subprocess.Popen[str]
    detector: detection_pb2_grpc.DetectorStub
    rg1: bytes
    first: list[pb.Finding]

    def detect(self, image: bytes) -> pb.DetectResponse:
        return self.detector.Detect(pb.DetectRequest(image=image), timeout=60)

    def is_unchanged(self) -> bool:
        """Return whether RG1 still gets the findings that it got at the start."""
        return list(self.detect(self.rg1).findings) == self.first

    def outcome(self, image: bytes) -> str:
        """Return an error's code, or `answered` if all findings are inside the image."""
        try:
            response = self.detect(image)
        except grpc.RpcError as error:
            code = hilum_error(error).code
            assert code in {known.value for known in ErrorCode}
            assert code != ErrorCode.INTERNAL, "an unexpected error"
            return code
        facts = response.image
        for finding in response.findings:
            assert 0 <= finding.box.x_min < finding.box.x_max <= facts.columns
            assert 0 <= finding.box.y_min < finding.box.y_max <= facts.rows
        return "answered"


@pytest.fixture(scope="module")
def agent() -> Iterator[RunningAgent]:
    rg1 = pydicom_file("RG1_UNCI.dcm").read_bytes()
    with agent_process("--port", "0") as process:
        channel = grpc.insecure_channel(
            serving_line(process)["address"], [("grpc.max_send_message_length", -1)]
        )
        agent = RunningAgent(process, detection_pb2_grpc.DetectorStub(channel), rg1, [])
        agent.first = list(agent.detect(rg1).findings)
        yield agent
        channel.close()
        process.terminate()
        assert process.stderr
        log = process.stderr.read()
        assert process.wait(30) == 0
        assert "ERROR" not in log


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def edited(**elements: object) -> Callable[[], bytes]:
    return lambda: dicom(**elements)


def unknown_syntax() -> bytes:
    unknown = data_set(chest(), bits=12)
    return written(unknown).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0", 1)


REFUSED: dict[str, tuple[ErrorCode, Callable[[], bytes]]] = {
    "empty file": (ErrorCode.EMPTY_FILE, bytes),
    "text": (ErrorCode.NOT_AN_IMAGE, lambda: b"This is a letter, not a radiograph. " * 40),
    "zeros": (ErrorCode.NOT_AN_IMAGE, lambda: bytes(5000)),
    "truncated DICOM": (ErrorCode.TRUNCATED, lambda: dicom()[:-4000]),
    "truncated PNG": (ErrorCode.TRUNCATED, lambda: png(np.full((300, 300), 90, np.uint8))[:-30]),
    "unknown syntax": (ErrorCode.UNSUPPORTED_SYNTAX, unknown_syntax),
    "two frames": (
        ErrorCode.MULTI_FRAME,
        lambda: pydicom_file("SC_rgb_2frame.dcm").read_bytes(),
    ),
    "CT": (
        ErrorCode.WRONG_MODALITY,
        edited(SOPClassUID=CTImageStorage, Modality="CT"),
    ),
    "ankle": (ErrorCode.BODY_PART_NOT_CHEST, lambda: pydicom_file("RG3_UNCI.dcm").read_bytes()),
    "for processing": (
        ErrorCode.FOR_PROCESSING,
        edited(PresentationIntentType="FOR PROCESSING"),
    ),
    "too large": (ErrorCode.TOO_LARGE, edited(Rows=10000, Columns=10000)),
    "too small": (ErrorCode.TOO_SMALL, lambda: png(np.zeros((20, 20), np.uint8))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_refusal_has_its_code_message_and_hint(agent: RunningAgent, name: str) -> None:
    code, make = REFUSED[name]
    with pytest.raises(grpc.RpcError) as caught:
        agent.detect(make())
    error = hilum_error(caught.value)
    assert error.code == code
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == caught.value.details()
    assert error.hint
    assert agent.is_unchanged()


def real_files() -> list[bytes]:
    """Return RG1, shrunk, in every format, and real DICOM files of other vendors unchanged."""
    rg1 = pydicom_file("RG1_UNCI.dcm").read_bytes()
    radiograph, _ = read_study(rg1, fit=(320, 320))
    small = cv2.resize(radiograph.pixels, (300, 320), interpolation=cv2.INTER_AREA)
    grey16 = small.astype(np.uint16) * 16
    rle = data_set(grey16, bits=12)
    rle.file_meta = FileMetaDataset()
    rle.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    rle.compress(RLELossless, generate_instance_uid=False)
    files = [
        dicom(grey16, bits=12),
        written(rle, RLELossless),
        *(cv2.imencode(kind, small)[1].tobytes() for kind in (".png", ".jpg", ".tiff")),
    ]
    others = ["RG1_J2KI.dcm", "SC_rgb.dcm", "JPEG-LL.dcm", "OBXXXX1A_rle.dcm", "RG3_J2KI.dcm"]
    return files + [pydicom_file(name).read_bytes() for name in others]


def truncate(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def change_bytes(rng: np.random.Generator, data: bytes) -> bytes:
    """Change one, 16 or 400 bytes; half of the time only in the header."""
    changed = bytearray(data)
    reach = len(data) if rng.random() < 0.5 else min(len(data), 1200)
    for position in rng.integers(0, reach, rng.choice([1, 16, 400])):
        changed[position] ^= int(rng.integers(1, 256))
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate, change_bytes])
def test_damaged_files_get_a_code_or_an_answer_and_the_next_is_right(
    agent: RunningAgent, damage: Callable[[np.random.Generator, bytes], bytes]
) -> None:
    rng = np.random.default_rng(20261123)
    files = real_files()
    for data in files[:5]:
        assert agent.outcome(data) == "answered"
    seen = set()
    for number in range(ROUNDS):
        seen.add(agent.outcome(damage(rng, files[number % len(files)])))
        if number % CHECK_EVERY == 0:
            assert agent.is_unchanged()
    assert agent.is_unchanged()
    if damage is truncate:
        assert "answered" not in seen, "a truncated radiograph was answered"
    else:
        assert len(seen) > 2, "the damage led to few different outcomes"
    assert agent.process.poll() is None
