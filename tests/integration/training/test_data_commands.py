"""`hilum-train data` as a person runs it: exit codes, messages, kills, a disk that is full."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.training.annotated import make_studies, real_table, table
from training.cli.main import app
from training.data import dataset, splits, tables
from training.synthetic import dicom_studies

pytestmark = [pytest.mark.training, pytest.mark.slow]

COMMAND = (sys.executable, "-c", "from training.cli.main import main; main()")
KILLED_ON_ITS_WAY = """
import os, signal
from training.cli.main import main
from training.data import ingest
whole = ingest.ingest_all
def some(*args, **kwargs):
    for number, image in enumerate(whole(*args, **kwargs)):
        if number == 3:
            os.killpg(0, signal.SIGKILL)
        yield image
ingest.ingest_all = some
main()
"""


@dataclass(frozen=True)
class Ended:
    """The exit status of a command and the text that it wrote to standard error."""

    returncode: int
    stderr: str


def hilum_train(*arguments: object) -> Ended:
    """Run the command in this process: a new one imports for seconds before it starts."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Ended(result.exit_code, result.stderr)


def hilum_train_process(*arguments: object, limit: Callable[[], None] | None = None) -> Ended:
    """Run the command in a process of its own, after `limit` was called there."""
    ended = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    return Ended(ended.returncode, ended.stderr)


def hardly_any_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_studies(tmp_path_factory.mktemp("studies"), 16)


@pytest.mark.slow
def test_the_whole_real_table(tmp_path: Path) -> None:
    done = hilum_train_process(
        "data", "vindr", "--annotations", real_table(), "--out", tmp_path / "set"
    )
    assert done.returncode == 0, done.stderr
    assert "15,000 images, 17 reader(s), 36,096 boxes; 22,717 findings after fusion" in done.stderr
    known = tables.read_tables(tmp_path / "set")
    assert len(known.readers) == 67_914
    assert known.fused["readers"].value_counts().to_dict() == {1: 13_893, 2: 4_271, 3: 4_553}
    sizes = {name: len(ids) for name, ids in splits.load_split(tmp_path / "set").images.items()}
    assert sum(sizes.values()) == 15_000
    assert abs(sizes["valid"] - 1500) < 100
    report = (tmp_path / "set" / tables.REPORT).read_text()
    assert "http" not in report.replace("http-equiv", "")  # nothing is fetched from anywhere


def test_a_killed_import_goes_on_where_it_stopped(annotated: Path, tmp_path: Path) -> None:
    arguments = ["data", "vindr", "--annotations", annotated / dicom_studies.TABLE]
    arguments += ["--images", annotated / "studies", "--allow-absent-classes", "--workers", 1]
    arguments += ["--valid", 0.2, "--test", 0.2]
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED_ON_ITS_WAY, *map(str, [*arguments, "--out", out])]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    assert run.wait(120) == -signal.SIGKILL
    journal = out / "images.jsonl"
    assert 3 <= journal.read_text().count("\n") < 16
    assert not (out / "annotations.csv").exists()
    kept = {p: p.stat().st_mtime_ns for p in (out / "images").glob("*.png")}
    noted = {line.split('"')[3] for line in journal.read_text().splitlines()}
    done = hilum_train(*arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    assert all(p.stat().st_mtime_ns == when for p, when in kept.items() if p.stem in noted)
    clean = hilum_train(*arguments, "--out", tmp_path / "clean")
    assert clean.returncode == 0, clean.stderr
    for name in ("images.csv", "readers.csv", "annotations.csv", "split.json"):
        assert (out / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()
    assert len(dataset.load_dataset(out)) == 16


@pytest.mark.parametrize("pictures", [False, True])
def test_a_full_disk_leaves_what_was_there(annotated: Path, tmp_path: Path, pictures: bool) -> None:
    out = tmp_path / "set"
    arguments = ["data", "vindr", "--annotations", annotated / dicom_studies.TABLE, "--out", out]
    arguments += ["--allow-absent-classes"]
    assert hilum_train(*arguments).returncode == 0
    before = contents(out)
    if pictures:
        arguments += ["--images", annotated / "studies"]

    done = hilum_train_process(
        *arguments, "--fusion-iou", 0.6, "--new-split", limit=hardly_any_room
    )
    assert done.returncode == 1
    assert f"error: cannot write {out}" in done.stderr
    assert "Traceback" not in done.stderr
    after = {name: data for name, data in contents(out).items() if name != "images.jsonl"}
    assert after == before


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a,Cough,3,R1,1,1,9,9\n", "train.csv, row 2: an unknown class: 'Cough'"),
        ("a,ILD,5,R1,9,1,1,9\n", "train.csv, row 2: the box is inverted or empty"),
        ("a,ILD,5,R1,1,1,9,9\n", "has no example of Aortic enlargement"),
    ],
)
def test_bad_tables_end_with_a_message(tmp_path: Path, rows: str, says: str) -> None:
    done = hilum_train(
        "data", "vindr", "--annotations", table(tmp_path, rows), "--out", tmp_path / "set"
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("form", [[], ["--studies"]])
def test_a_set_that_the_disk_did_not_take_is_not_whole(tmp_path: Path, form: list[str]) -> None:
    out = tmp_path / "set"
    painted = ["synthetic", *form, "--out", out, "--count", 2, "--workers", 1]
    done = hilum_train_process(*painted, limit=hardly_any_room)
    assert done.returncode == 1
    assert f"error: cannot write {out}/" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_divide_report_export(annotated: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    made = hilum_train(
        "data", "vindr", "--annotations", annotated / dicom_studies.TABLE, "--images",
        annotated / "studies", "--out", out, "--allow-absent-classes",
        "--valid", 0.2, "--test", 0.2,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    digest = splits.load_split(out).digest
    assert digest in made.stderr
    assert "left out" not in made.stderr
    frozen = hilum_train("data", "split", "--data", out, "--seed", 5)
    assert frozen.returncode == 1
    assert "is frozen" in frozen.stderr
    again = ["data", "split", "--data", out, "--seed", 5, "--new-split"]
    assert hilum_train(*again, "--valid", 0.2, "--test", 0.2).returncode == 0
    assert splits.load_split(out).digest != digest
    (out / tables.REPORT).unlink()
    assert hilum_train("data", "report", "--data", out).returncode == 0
    assert splits.load_split(out).digest in (out / tables.REPORT).read_text()
    yolo = ["data", "export", "--data", out, "--format", "yolo", "--out", tmp_path / "yolo"]
    assert hilum_train(*yolo).returncode == 0
    assert len(list((tmp_path / "yolo" / "images").rglob("*.png"))) == 16
