"""Makes the contract's requests from images and options."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeAlias

from hilum.client.errors import DetectError
from hilum.codes import ClientErrorCode, ErrorCode
from hilum.v1 import detection_pb2 as pb

Priority: TypeAlias = Literal["routine", "stat"]
# A path (text or Path), the file's bytes, or an open binary file.
ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

_PRIORITIES: Final = {"routine": pb.PRIORITY_ROUTINE, "stat": pb.PRIORITY_STAT}
# A protobuf message holds less than 2 GiB; 1 MiB is reserved for the other fields.
_LARGEST_BYTES: Final = 2**31 - 2**20


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a detection. Raises ValueError if one is out of its range."""

    threshold: float | None
    priority: Priority
    timeout_s: float
    model: str = ""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, not {self.threshold}")
        if self.priority not in _PRIORITIES:
            raise ValueError(f"priority must be 'routine' or 'stat', not {self.priority!r}")
        check_timeout(self.timeout_s)

    def make_request(self, image: bytes) -> pb.DetectRequest:
        """Return a request with a new id.

        Raises:
            DetectError: the image does not fit into one message (`too_large`).
        """
        if len(image) > _LARGEST_BYTES:
            raise DetectError(
                ErrorCode.TOO_LARGE,
                "The file is larger than 2 GiB.",
                "Send only the radiograph.",
            )
        return pb.DetectRequest(
            request_id=uuid.uuid4().hex,
            image=image,
            options=pb.DetectOptions(
                score_threshold=self.threshold, priority=_PRIORITIES[self.priority]
            ),
            model=self.model,
        )


def check_timeout(timeout_s: float) -> None:
    """Raise ValueError unless a timeout is a positive number of seconds."""
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ValueError(f"timeout_s must be a positive number of seconds, not {timeout_s}")


def read_image(source: ImageSource) -> bytes:
    """Return the image's bytes.

    Raises:
        DetectError: the file cannot be read (`file_unreadable`).
        TypeError: `source` yields no bytes.
    """
    try:
        match source:
            case bytes():
                return source
            case bytearray() | memoryview():
                return bytes(source)
            case str() | os.PathLike():
                return Path(source).read_bytes()
        data = source.read()
    except OSError as error:
        raise DetectError(
            ClientErrorCode.FILE_UNREADABLE,
            f"The file cannot be read ({error.strerror or error}).",
            "Check the path and the permissions.",
        ) from error
    if not isinstance(data, bytes):
        raise TypeError("an open file must be in binary mode ('rb')")
    return data


def pair_images(images: Iterable[Any]) -> Iterator[tuple[Any, ImageSource]]:
    """Return the images as pairs (key, image); a single path is its own key.

    Raises:
        TypeError: `images` is one image.
    """
    refuse_single(images)
    return (make_pair(image) for image in images)


def make_pair(image: Any) -> tuple[Any, ImageSource]:  # noqa: ANN401  # its types are in the overloads
    """Return the pair (key, image) as given, or a path as its own key."""
    return (image, image) if isinstance(image, str | os.PathLike) else image


def refuse_single(images: object) -> None:
    """Raise TypeError for a single image. The letters of a str would be used as file names."""
    if isinstance(images, str | bytes | bytearray | memoryview | os.PathLike):
        raise TypeError("detect_many takes several images; use detect for one")
