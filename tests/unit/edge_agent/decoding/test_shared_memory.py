"""The memory that the agent shares with a process that it does not trust."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest

from edge_agent.decoding.shared_memory import KEEP_BYTES, SharedImageBuffer
from edge_agent.errors import DecoderFailed


def both_sides(
    input_bytes: int = 100_000, output_bytes: int = 100_000
) -> tuple[SharedImageBuffer, ...]:
    """The same memory as the agent and as the worker see it."""
    agent = SharedImageBuffer.create(input_bytes, output_bytes)
    worker = SharedImageBuffer(os.dup(agent.fd), input_bytes, output_bytes)
    worker.close_fd()
    return agent, worker


def test_the_image_goes_in_and_pixels_come_out() -> None:
    agent, worker = both_sides()
    agent.write_image(b"an image")
    assert bytes(worker.view_image(8)) == b"an image"
    assert worker.view_image(8).readonly
    first = np.arange(12, dtype=np.uint8).reshape(3, 4)
    worker.write_pixels(np.asfortranarray(first))
    np.testing.assert_array_equal(agent.copy_pixels((3, 4)), first)
    agent.close_fd()


def test_a_worker_cannot_change_copied_pixels() -> None:
    agent, worker = both_sides()
    worker.write_pixels(np.full((5, 5), 7, np.uint8))
    copied = agent.copy_pixels((5, 5))
    worker.write_pixels(np.full((5, 5), 8, np.uint8))
    assert (copied == 7).all()
    assert copied.flags.owndata
    agent.close_fd()


def test_pixels_may_come_from_the_image_itself() -> None:
    agent, worker = both_sides(64, 64)
    agent.write_image(bytes(range(16)))
    worker.write_pixels(np.frombuffer(worker.view_image(16), np.uint8).reshape(4, 4))
    np.testing.assert_array_equal(agent.copy_pixels((4, 4)).ravel(), np.arange(16))
    agent.close_fd()


def test_a_worker_cannot_truncate_it() -> None:
    agent, _worker = both_sides()
    for size_bytes in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(agent.fd, size_bytes)
    agent.close_fd()


def test_more_pixels_than_there_is_room_for_are_an_error() -> None:
    _agent, worker = both_sides(output_bytes=mmap.PAGESIZE)
    with pytest.raises(DecoderFailed, match="room"):
        worker.write_pixels(np.zeros((1, mmap.PAGESIZE + 1), np.uint8))


def test_only_the_pages_of_large_images_are_freed() -> None:
    agent, worker = both_sides(input_bytes=4 * KEEP_BYTES)
    resident = lambda: os.fstat(agent.fd).st_blocks * 512  # noqa: E731
    agent.write_image(bytes(KEEP_BYTES))
    agent.free_large_pages()
    assert resident() == KEEP_BYTES
    agent.write_image(bytes(3 * KEEP_BYTES))
    assert resident() == agent.touched_bytes == 3 * KEEP_BYTES
    agent.free_large_pages()
    assert resident() == agent.touched_bytes == KEEP_BYTES
    agent.write_image(b"\xff" * (2 * KEEP_BYTES))
    assert worker.view_image(2 * KEEP_BYTES)[-1] == 0xFF
    agent.close_fd()


def test_it_may_be_unmapped_during_a_copy() -> None:
    agent, _worker = both_sides()
    running_copy = agent._input[:10]
    agent.unmap()
    running_copy[:] = 1
    agent.close_fd()
