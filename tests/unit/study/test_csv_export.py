"""Rows for a spreadsheet."""

import csv

import pytest

from camscope.errors import StoreError
from camscope.study.csv_export import write_csv
from camscope.study.run import run
from camscope.study.study import Study
from running import inside


def test_rows_as_a_spreadsheet_reads_them(make_study, tmp_path):
    path = make_study(4)
    table = path.parent / "cohort.csv"
    table.write_text(table.read_text().replace(",P001,", ",=P001,"))
    rows = list(run(Study.read(path), tmp_path / "out"))
    done = inside("report", tmp_path / "out", "--csv")
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "out/rows.csv"))
    content = (tmp_path / "out/rows.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    with (tmp_path / "out/rows.csv").open(newline="", encoding="utf-8-sig") as file:
        cells = list(csv.DictReader(file))
    assert [cell["image"] for cell in cells] == [row["image"] for row in rows]
    assert [float(cell["score"]) for cell in cells] == [row["score"] for row in rows]
    assert "grid" not in cells[0]
    assert {cell["patient"] for cell in cells} == {"P000", "'=P001"}  # no formula
    write_csv(tmp_path / "out", pseudonyms=True)
    text = (tmp_path / "out/rows.csv").read_text(encoding="utf-8-sig")
    assert "P000" not in text
    assert {line.split(",")[3] for line in text.splitlines()[1:]} == {"P1", "P2"}


def test_a_folder_without_a_study(tmp_path):
    with pytest.raises(StoreError, match="there is no study"):
        write_csv(tmp_path)
