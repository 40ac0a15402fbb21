"""The decisions on the images of a stream: send, retry or give up. The clients do the I/O.

Every image that is added is removed exactly once, with a `Result` or a `DetectError`. At most
`concurrency` images are in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from hilum.client import errors
from hilum.client.convert import to_result, wrong_answer_error
from hilum.client.errors import DetectError
from hilum.client.results import Result
from hilum.client.retry import Retry
from hilum.codes import ErrorCode
from hilum.v1 import detection_pb2 as pb

Key = TypeVar("Key")


@dataclass(slots=True)
class _Image(Generic[Key]):
    key: Key
    request: pb.DetectRequest
    expires_at: float
    # The time to send the image, again or for the first time; None while the agent has it.
    send_at: float | None
    attempts: int = 0
    last_error: DetectError | None = None


class Batch(Generic[Key]):
    """The images of one `detect_many` call in progress. `now` is in monotonic seconds."""

    def __init__(self, concurrency: int, timeout_s: float, retry: Retry) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._retry = retry
        self._images: dict[str, _Image[Key]] = {}
        self._breaks_in_a_row = 0

    def __len__(self) -> int:
        return len(self._images)

    @property
    def has_room(self) -> bool:
        """True if another image may be added."""
        return len(self._images) < self._concurrency

    def add(self, key: Key, request: pb.DetectRequest, now: float) -> None:
        """Add an image to send; its timeout starts now."""
        self._images[request.request_id] = _Image(key, request, now + self._timeout_s, now)

    def pop_due(self, now: float) -> list[pb.DetectRequest]:
        """Return the requests to send now, and record them as sent."""
        due = [i for i in self._images.values() if i.send_at is not None and i.send_at <= now]
        for image in due:
            image.send_at = None
            image.attempts += 1
        return [image.request for image in due]

    def compute_wait_s(self, now: float) -> float:
        """Return the seconds until an image is due or expires; the batch must not be empty."""
        next_at = min(
            image.expires_at if image.send_at is None else min(image.send_at, image.expires_at)
            for image in self._images.values()
        )
        return max(0.0, next_at - now)

    def handle_answer(
        self, message: pb.DetectStreamResponse, now: float
    ) -> tuple[Key, Result | DetectError] | None:
        """Return the outcome of an image; None if it will be sent again.

        Raises:
            DetectError: the answer belongs to no image in progress, or is not of the contract's
                form; no other answer on this stream can be trusted.
        """
        image = self._images.get(message.request_id)
        if image is None or image.send_at is not None:
            raise wrong_answer_error("The agent answered a request that is not in progress.")
        self._breaks_in_a_row = 0
        match message.WhichOneof("outcome"):
            case "response":
                result = to_result(message.response, message.request_id)
                return self._remove(image), result
            case "error" if message.error.code:
                error = errors.from_message(message.error)
            case _:
                raise wrong_answer_error("The agent's answer is neither a result nor an error.")
        wait_s = self._retry.compute_wait_s(error, image.attempts, image.expires_at - now)
        if wait_s is None:
            return self._remove(image), error
        image.send_at = now + wait_s
        image.last_error = error
        return None

    def expire(self, now: float) -> tuple[list[tuple[Key, DetectError]], bool]:
        """Remove the images whose deadline has passed.

        Returns:
            Their keys and errors, and True if the stream must be closed. It must be if the agent
            still has one of them: then no late answer can arrive, and the agent stops working on
            it. The other images are due again.
        """
        expired = [image for image in self._images.values() if image.expires_at <= now]
        must_close = any(image.send_at is None for image in expired)
        outcomes = [
            (self._remove(image), image.last_error or _deadline_error()) for image in expired
        ]
        if must_close:
            self._send_again(now)
        return outcomes, must_close

    def handle_loss(
        self, error: DetectError, now: float
    ) -> tuple[list[tuple[Key, DetectError]], float]:
        """Handle a broken stream.

        A message over the agent's limit ends the whole stream. The largest image that the agent had
        is at fault: it fails, and the others are due again at once.

        Returns:
            The images that failed, and the seconds to wait before the next stream is opened.

        Raises:
            DetectError: `error`, if another attempt would not help.
        """
        sent = [image for image in self._images.values() if image.send_at is None]
        if error.code == ErrorCode.TOO_LARGE and sent:
            at_fault = max(sent, key=lambda image: len(image.request.image))
            key = self._remove(at_fault)
            self._send_again(now)
            return [(key, error)], 0.0
        self._breaks_in_a_row += 1
        remaining_s = max((i.expires_at for i in self._images.values()), default=now) - now
        wait_s = self._retry.compute_wait_s(error, self._breaks_in_a_row, remaining_s)
        if wait_s is None:
            raise error
        for image in self._images.values():
            image.last_error = error
        self._send_again(now)
        return [], wait_s

    def _send_again(self, now: float) -> None:
        for image in self._images.values():
            if image.send_at is None:
                image.send_at = now

    def _remove(self, image: _Image[Key]) -> Key:
        del self._images[image.request.request_id]
        return image.key


def stream_ended_error() -> DetectError:
    """Return the error of a stream that the agent closed before it answered all images."""
    return DetectError(
        ErrorCode.NOT_READY,
        "The agent ended the stream before it had answered.",
        "It may be restarting: try again in a moment.",
        retryable=True,
    )


def _deadline_error() -> DetectError:
    return DetectError(
        ErrorCode.DEADLINE_EXCEEDED,
        "There was no answer in the time allowed.",
        "Allow more time (timeout_s) or send fewer images at once (concurrency).",
        retryable=True,
    )
