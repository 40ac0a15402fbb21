from __future__ import annotations

import asyncio
import os
from functools import partial

import pytest

from edge_agent.process_memory import memory_kb
from edge_agent.serving.memory import give_back_free_memory, keep_tidy
from tests.agents import eventually

BLOCK, BLOCKS = 100_000, 1000
MOST_KB = BLOCK * BLOCKS * 8 // 10_000


def blocks_with_gaps() -> list[bytes]:
    """100 MB were taken and nine tenths are free again, but for no one else: between the others."""
    blocks = [b"x" * BLOCK for _ in range(BLOCKS)]
    return blocks[::10]


def _is_below(limit_kb: int) -> bool:
    return memory_kb(os.getpid()) < limit_kb


def test_what_is_free_between_others_is_given_back() -> None:
    kept = blocks_with_gaps()
    before = memory_kb(os.getpid())
    give_back_free_memory()
    assert memory_kb(os.getpid()) < before - MOST_KB
    assert len(kept) == BLOCKS // 10


async def test_it_is_given_back_again_and_again() -> None:
    tidying = asyncio.create_task(keep_tidy(0.001))
    for _ in range(2):
        before = memory_kb(os.getpid())
        kept = blocks_with_gaps()
        await eventually(partial(_is_below, before + MOST_KB // 2))
        del kept
    tidying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await tidying
