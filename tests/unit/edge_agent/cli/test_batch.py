from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.cli.batch import detect_files, read_limited
from edge_agent.errors import InvalidRequest, StudyImageRefused
from hilum.codes import ErrorCode
from tests.support.agents.tagged import SIDE, fake_pipeline, in_flight, settings, tagged_png
from tests.support.engines.fake_engine import FakeEngine


async def test_outcomes_come_in_the_files_order_whatever_fails(tmp_path: Path) -> None:
    tags = [150, 0, 151, 0, 152, 153]
    files = [tmp_path / f"{number}.png" for number in range(len(tags))]
    for file, tag in zip(files, tags, strict=True):
        file.write_bytes(tagged_png(tag) if tag else b"no image")
    service = fake_pipeline(settings(), None, FakeEngine(SIDE, SIDE))
    try:
        outcomes = [
            outcome
            async for outcome in detect_files(service, files, max_bytes=1 << 20, max_running=3)
        ]
    finally:
        await service.close()
    assert [outcome.path for outcome in outcomes] == files
    for outcome, tag in zip(outcomes, tags, strict=True):
        if tag:
            assert outcome.result
            assert round(outcome.result.findings[0].score * 255) == tag
            assert outcome.error is None
        else:
            assert outcome.result is None
            assert outcome.error
            assert outcome.error.code is ErrorCode.NOT_AN_IMAGE


async def test_closing_the_iterator_cancels_what_is_running(tmp_path: Path) -> None:
    files = [tmp_path / f"{tag}.png" for tag in range(150, 160)]
    for file in files:
        file.write_bytes(tagged_png(int(file.stem)))
    service = fake_pipeline(settings(), None, FakeEngine(SIDE, SIDE))
    try:
        outcomes = detect_files(service, files, max_bytes=1 << 20)
        assert (await anext(outcomes)).result
        await outcomes.aclose()
        assert in_flight(service) == 0
    finally:
        await service.close()


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "big.dcm"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 33)
    with pytest.raises(StudyImageRefused) as caught:
        read_limited(file, 1 << 20)
    assert caught.value.code is ErrorCode.TOO_LARGE


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "absent"):
        with pytest.raises(InvalidRequest):
            read_limited(path, 100)
