"""Every row of an annotation table is either used or named with the reason why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.training.annotated import real_table, table
from training.data import vindr
from training.errors import TrainingError

GOOD = "a,ILD,5,R1,10,20,30,50\na,No finding,14,R2,,,,\n"


def test_rows_keep_their_line_and_get_their_class(tmp_path: Path) -> None:
    read = vindr.read_annotations(table(tmp_path, GOOD))
    assert read.rows["row"].tolist() == [2, 3]
    assert read.rows["class_id"].tolist() == [5, 14]
    assert read.rows["x_max"].isna().tolist() == [False, True]
    assert read.rejected.empty


def test_a_table_without_class_ids_is_enough(tmp_path: Path) -> None:
    header = "image_id,class_name,rad_id,x_min,y_min,x_max,y_max\n"
    read = vindr.read_annotations(table(tmp_path, "a,Nodule/Mass,R1,1,2,30,40\n", header=header))
    assert read.rows["class_id"].tolist() == [8]


def test_ids_are_text(tmp_path: Path) -> None:
    rows = "000012,ILD,5,01,10,20,30,50\n1e5,ILD,5,02,10,20,30,50\nNA,No finding,14,02,,,,\n"
    read = vindr.read_annotations(table(tmp_path, rows))
    assert read.rows["image_id"].tolist() == ["000012", "1e5", "NA"]
    assert read.rows["rad_id"].tolist() == ["01", "02", "02"]
    assert read.rows["x_max"].tolist()[:2] == [30, 30]


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    path = table(tmp_path, "\n" + GOOD + ",,,,,,,\n\nb,ILD,5,R1,9,1,1,9\n\n")
    assert path.read_text().splitlines()[6].startswith("b,")
    with pytest.raises(TrainingError, match=r"train\.csv, row 7: the box is inverted"):
        vindr.read_annotations(path)
    read = vindr.read_annotations(path, skip_bad=True)
    assert read.rows["row"].tolist() == [3, 4]
    assert read.rejected["row"].tolist() == [7]


def test_rows_longer_than_the_header_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="more fields in its rows"):
        vindr.read_annotations(table(tmp_path, "a,ILD,5,R1,10,20,30,50,\n"))


def test_an_unknown_class_comes_with_the_known_ones(tmp_path: Path) -> None:
    header = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"  # as PhysioNet's
    rows = "a,R1,ILD,10,20,30,50\na,R2,Emphysema,10,20,30,50\n"
    with pytest.raises(TrainingError, match="row 3: an unknown class: 'Emphysema'") as caught:
        vindr.read_annotations(table(tmp_path, rows, header=header))
    for name in ("Aortic enlargement", "No finding", "PhysioNet", "--skip-bad"):
        assert name in caught.value.hint
    assert (
        len(vindr.read_annotations(table(tmp_path, rows, header=header), skip_bad=True).rows) == 1
    )


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("b,Broken leg,3,R1,1,1,9,9", "an unknown class: 'Broken leg'"),
        ("b,ILD,4,R1,1,1,9,9", "contradict each other"),
        ("b,ILD,5,R1,9,1,1,9", "inverted or empty"),
        ("b,ILD,5,R1,1,9,9,9", "inverted or empty"),
        ("b,ILD,5,R1,1,1,2.5,9", "a side under 2 pixels"),
        ("b,ILD,5,R1,-4,1,9,9", "begins outside"),
        ("b,ILD,5,R1,1,1,x,9", "not four numbers"),
        ("b,ILD,5,R1,1,1,,9", "not four numbers"),
        ("b,ILD,5,R1,1,1,inf,9", "not four numbers"),
        ("b,No finding,14,R1,1,1,9,9", "'No finding' has a box"),
        ("b,ILD,5,,1,1,9,9", "no reader is named"),
        ("../../b,ILD,5,R1,1,1,9,9", "the image_id is not valid"),
        (",ILD,5,R1,1,1,9,9", "the image_id is not valid"),
        ("a,ILD,5,R1,10,20,30,50", "has given this row before"),
    ],
)
def test_a_bad_row_is_named_or_left_out(tmp_path: Path, row: str, why: str) -> None:
    path = table(tmp_path, GOOD + row + "\n")
    with pytest.raises(TrainingError, match=r"train\.csv, row 4: ") as caught:
        vindr.read_annotations(path)
    assert why in caught.value.message
    assert "--skip-bad" in caught.value.hint
    read = vindr.read_annotations(path, skip_bad=True)
    assert len(read.rows) == 2
    assert read.rejected["row"].tolist() == [4]
    assert why in read.rejected["why"].iloc[0]


def test_many_bad_rows_are_counted_and_the_first_few_named(tmp_path: Path) -> None:
    path = table(tmp_path, GOOD + "b,ILD,5,R1,9,1,1,9\n" + "b,Cough,5,R1,1,1,9,9\n" * 9)
    with pytest.raises(TrainingError, match=r"row 4: .*; 9 more .*\(rows 5, 6, 7, 8, 9, \.\.\.\)"):
        vindr.read_annotations(path)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="lacks the columns rad_id, x_min"):
        vindr.read_annotations(
            table(tmp_path, "a,ILD,2,3,4\n", header="image_id,class_name,y_min,x_max,y_max\n")
        )


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b broken gzip", b"\xff\xfe\x00", b'a,b\n"'])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ("t.csv.gz" if content[:2] == b"\x1f\x8b" else "t.csv")
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=path.name):
        vindr.read_annotations(path)
    with pytest.raises(TrainingError, match=r"absent\.csv"):
        vindr.read_annotations(tmp_path / "absent.csv")


def test_nothing_usable_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no row that can be used"):
        vindr.read_annotations(table(tmp_path, "b,ILD,5,R1,9,1,1,9\n"), skip_bad=True)


def test_the_real_table_has_no_bad_row() -> None:
    read = vindr.read_annotations(real_table())
    assert len(read.rows) == 67_914
    assert read.rows["image_id"].nunique() == 15_000
    assert read.rows["rad_id"].nunique() == 17
    assert read.rejected.empty
