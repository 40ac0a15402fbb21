from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.cli.batch import read_limited
from edge_agent.cli.input_files import UsageError, choose_overlay_paths, find_files
from edge_agent.errors import InvalidRequest

DICOM = bytes(128) + b"DICM" + b"rest"


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    for name in ["b.PNG", "a.jpg", "notes.txt", "deep/c.dcm", ".hidden.png", ".git/d.png"]:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    (tmp_path / "1.2.840.10008").write_bytes(DICOM)
    (tmp_path / "DICOMDIR").write_bytes(DICOM)
    return tmp_path


def names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


def test_a_folder_yields_what_may_be_a_study_image(inbox: Path) -> None:
    assert names(find_files([str(inbox)])) == ["1.2.840.10008", "a.jpg", "b.PNG"]


def test_recursive_includes_subfolders_but_not_hidden_ones(inbox: Path) -> None:
    found = find_files([str(inbox)], recursive=True)
    assert names(found) == ["1.2.840.10008", "a.jpg", "b.PNG", "c.dcm"]


def test_a_quoted_pattern_is_expanded(inbox: Path) -> None:
    assert names(find_files([f"{inbox}/*.[jP]*"])) == ["a.jpg", "b.PNG"]
    assert names(find_files([f"{inbox}/**/*.dcm"])) == ["c.dcm"]


def test_a_named_file_is_taken_whatever_it_is(inbox: Path) -> None:
    named = [str(inbox / "notes.txt"), str(inbox / "absent.dcm")]
    assert names(find_files(named)) == ["notes.txt", "absent.dcm"]


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path: Path) -> None:
    odd = tmp_path / "chest[1].png"
    odd.write_bytes(b"x")
    assert find_files([str(odd)]) == [odd]


def test_a_file_named_twice_is_read_once(inbox: Path) -> None:
    assert names(find_files([str(inbox / "a.jpg"), str(inbox)])) == [
        "a.jpg",
        "1.2.840.10008",
        "b.PNG",
    ]


def test_finding_no_file_is_an_error(inbox: Path) -> None:
    with pytest.raises(UsageError, match="No file matches"):
        find_files([f"{inbox}/*.tif"])
    empty = inbox / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="--recursive"):
        find_files([str(empty)])


def test_an_unreadable_file_is_not_left_out(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path, *arguments: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    (inbox / "IM0001").write_bytes(DICOM)
    monkeypatch.setattr(Path, "open", deny)
    assert "IM0001" in names(find_files([str(inbox)]))
    monkeypatch.setattr(Path, "is_file", deny)
    assert "IM0001" in names(find_files([str(inbox)]))


def test_an_unreadable_subfolder_is_not_left_out(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def deny(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    assert inbox / "deep" in find_files([str(inbox)], recursive=True)
    with pytest.raises(InvalidRequest, match="folder cannot be read"):
        read_limited(inbox / "deep", 100)


def test_a_radiograph_is_never_overwritten(inbox: Path) -> None:
    image = inbox / "b.PNG"
    link = inbox / "link.png"
    link.symlink_to(image)
    for target in (image, link, inbox / "deep" / ".." / "b.PNG"):
        with pytest.raises(UsageError, match="study image itself"):
            choose_overlay_paths(target, [image], into_folder=False)
    for name in ("x.dcm", "x.png", "x-2.png"):
        (inbox / name).write_bytes(b"x")
    files = [inbox / "x.dcm", inbox / "x.png", inbox / "x-2.png"]
    places = choose_overlay_paths(inbox, files, into_folder=True)
    assert [place.name for place in places.values()] == ["x-3.png", "x-4.png", "x-2-2.png"]


def test_the_overlay_of_one_file(tmp_path: Path) -> None:
    file = Path("a.dcm")
    target = tmp_path / "out.png"
    assert choose_overlay_paths(target, [file], into_folder=False) == {file: target}
    assert choose_overlay_paths(tmp_path, [file], into_folder=False) == {file: tmp_path / "a.png"}


def test_overlays_of_several_files_do_not_overwrite_each_other(tmp_path: Path) -> None:
    files = [Path("x/a.dcm"), Path("y/a.png"), Path("1.2.840.10008"), Path("x/a-2.dcm")]
    places = choose_overlay_paths(tmp_path / "new", files, into_folder=True)
    assert [place.name for place in places.values()] == [
        "a.png",
        "a-2.png",
        "1.2.840.10008.png",
        "a-2-2.png",
    ]
    assert (tmp_path / "new").is_dir()


@pytest.mark.parametrize(
    ("target", "into_folder", "message"),
    [
        ("out.png", True, "name a folder"),
        ("out.jpg", False, "end its name in .png"),
        ("nowhere/out.png", False, "there is no folder"),
    ],
)
def test_a_wrong_target_is_an_error(
    tmp_path: Path, target: str, into_folder: bool, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        choose_overlay_paths(tmp_path / target, [Path("a.dcm")], into_folder=into_folder)


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="--overlay"):
        choose_overlay_paths(tmp_path / "file" / "folder", [Path("a.dcm")], into_folder=True)
