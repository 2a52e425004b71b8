"""Tables in every form that people have them."""

import gzip
import json
import re

import numpy as np
import polars as pl
import pytest
from PIL import Image

from camscope.cohort.tables import LINE, read_table
from camscope.errors import TableError

TEXT = 'path,patient,finding\nx.png,P1,"a, b"\ny.png,Ä2,=1+1\n'


def written(tmp_path, content, name="t.csv"):
    (tmp_path / name).write_bytes(content)
    return str(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.encode("cp1252"),
        TEXT.replace("\n", "\r\n").encode(),
        'path;patient;finding\nx.png;P1;"a, b"\ny.png;Ä2;=1+1\n'.encode(),
        "path\tpatient\tfinding\nx.png\tP1\ta, b\ny.png\tÄ2\t=1+1".encode(),
        ("\n" + TEXT).strip().replace("\n", "\n\n").encode(),
        'path,patient,finding,\nx.png,P1,"a, b",\ny.png,Ä2,=1+1,,\n'.encode(),
    ],
)
def test_the_same_table_in_many_forms(tmp_path, content):
    table, ragged = read_table(written(tmp_path, content))
    assert table.drop(LINE).rows() == [("x.png", "P1", "a, b"), ("y.png", "Ä2", "=1+1")]
    assert ragged == {}


def test_lines_count_what_an_editor_counts(tmp_path):
    table, ragged = read_table(written(tmp_path, b'a,b\n1,"two\nlines"\n\n3\n4,5,6\n7,8\n'))
    assert table[LINE].to_list() == [2, 5, 6, 7]
    assert ragged == {1: "has 1 cells and the table 2 columns", 2: "has 3 cells and the table 2 columns"}
    assert table["b"].to_list() == ["two\nlines", "", "5", "8"]


def test_a_long_cell(tmp_path):
    cell = " ".join(map(str, range(1, 60000)))
    assert read_table(written(tmp_path, f"a,b\n1,{cell}\n".encode()))[0]["b"][0] == cell


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b"a,b\n", "has no rows"), (b"a,a\n1,2\n", "two columns called 'a'"), (b"PK\0\0", "no text")],
)
def test_what_is_no_table(tmp_path, content, said):
    with pytest.raises(TableError, match=said):
        read_table(written(tmp_path, content))


def test_no_table(tmp_path):
    with pytest.raises(TableError, match="there is no file"):
        read_table(str(tmp_path / "t.csv"))


def test_parquet_of_any_types(tmp_path):
    columns = {"a": [True, None], "b": [1.0, float("nan")], "c": [[1, 2], None], "d": ["x", "y"], "e": [b"x", b"y"]}
    pl.DataFrame(columns).write_parquet(tmp_path / "t.parquet")
    table, _ = read_table(str(tmp_path / "t.parquet"))
    assert table.rows() == [("1", "1", "1,2", "x", 1), ("", "", "", "y", 2)]


def test_a_damaged_parquet_file(tmp_path):
    with pytest.raises(TableError, match="cannot be read"):
        read_table(written(tmp_path, b"PAR1 no", "t.parquet"))


def test_class_folders_of_the_radiography_layout(tmp_path):
    for name in ("COVID/images/1.png", "COVID/masks/1.png", "Normal/images/1.png", "Normal/images/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    (tmp_path / "results" / "AP").mkdir(parents=True)
    (tmp_path / "results" / "study.json").write_text("{}")
    Image.new("RGB", (4, 4)).save(tmp_path / "results" / "AP" / "overlay.jpg")
    table, _ = read_table(str(tmp_path))
    assert table.columns == ["path", "class", "mask", "COVID", "Normal", LINE]
    assert table.drop(LINE).rows() == [
        ("COVID/images/1.png", "COVID", "COVID/masks/1.png", "1", "0"),
        ("Normal/images/1.png", "Normal", "", "0", "1"),
        ("Normal/images/2.jpg", "Normal", "", "0", "1"),
    ]


def test_a_table_at_an_address():
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/tables/t.csv", TEXT.encode())
    assert len(read_table("memory://tables/t.csv")[0]) == 2


@pytest.mark.parametrize("name", ["__line__", "__case__", "__fault__", "__name__"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_that_are_used_internally_are_refused(tmp_path, name, kind):
    frame = pl.DataFrame({"path": ["a.png"], name: ["7"]})
    path = tmp_path / f"t.{kind}"
    frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
    with pytest.raises(TableError, match=f"cannot be called '{name}'"):
        read_table(str(path))


def test_parquet_columns_of_every_type_are_text_or_left_out(tmp_path):
    import datetime as dt

    frame = pl.DataFrame(
        {
            "path": ["a.png"],
            "age": [dt.timedelta(days=3, hours=2)],
            "times": [[dt.timedelta(days=1)]],
            "at": [dt.time(3, 4)],
            "nothing": pl.Series([None], dtype=pl.Null),
            "kind": pl.Series(["x"], dtype=pl.Categorical),
            "boxes": [[[1, 2], [3, 4]]],
        }
    )
    frame.write_parquet(tmp_path / "t.parquet")
    table, _ = read_table(str(tmp_path / "t.parquet"))
    assert table.drop(LINE).rows(named=True) == [
        {"path": "a.png", "age": "P3DT2H", "at": "03:04:00", "nothing": "", "kind": "x"}
    ]


def test_a_damaged_parquet_table_is_one_error_or_a_table(tmp_path):
    pl.DataFrame({"path": [f"{n}.png" for n in range(50)], "finding": [0, 1] * 25}).write_parquet(
        tmp_path / "t.parquet"
    )
    content = (tmp_path / "t.parquet").read_bytes()
    refused = 0
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        (tmp_path / "d.parquet").write_bytes(damaged)
        try:
            assert len(read_table(str(tmp_path / "d.parquet"))[0])
        except TableError:
            refused += 1
    assert refused


def test_compressed_tables(tmp_path):
    table, _ = read_table(written(tmp_path, gzip.compress(TEXT.encode()), "t.csv.gz"))
    assert table.drop(LINE).rows() == [("x.png", "P1", "a, b"), ("y.png", "Ä2", "=1+1")]
    with pytest.raises(TableError, match="cannot be unpacked"):
        read_table(written(tmp_path, gzip.compress(TEXT.encode() * 99)[:-9], "cut.csv.gz"))


def test_excel_files(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["path", "id", "ill", "seen"], ["x.png", 7, True, None], [None] * 4, ["y.png", 8.5, False, "a, b"]):
        book.active.append(row)
    book.create_sheet("other").append(["z"])
    book["other"].append(["1"])
    book.save(tmp_path / "t.xlsx")
    table, ragged = read_table(str(tmp_path / "t.xlsx"))
    assert table.rows() == [("x.png", "7", "1", "", 2), ("y.png", "8.5", "0", "a, b", 4)]
    assert ragged == {}
    assert read_table(str(tmp_path / "t.xlsx"), sheet="other")[0]["z"].to_list() == ["1"]
    with pytest.raises(TableError, match="no sheet called 'third', but 'Sheet', 'other'"):
        read_table(str(tmp_path / "t.xlsx"), sheet="third")
    with pytest.raises(TableError, match="cannot be read"):
        read_table(written(tmp_path, b"PK no", "u.xlsx"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.jsonl", '{"a": "x", "b": [1, 2]}\n{"a": null, "b": true}\n'),
        ("t.json", '[{"a": "x", "b": [1, 2]}, {"b": true}]'),
    ],
)
def test_json_records(tmp_path, name, content):
    table, _ = read_table(written(tmp_path, content.encode(), name))
    assert table.rows() == [("x", "[1, 2]", 1), ("", "1", 2)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.json", b"{", "is no JSON"),
        ("t.json", b"[1, 2]", "has no records"),
        ("t.jsonl", b'{"a": 1}\n{', r"t.jsonl:2: is no JSON"),
        (
            "t.json",
            b'{"images": [{"id": 1}], "annotations": [], "categories": []}',
            "annotations that COCO does not allow",
        ),
        ("t.xml", b"<a>", "is no XML"),
        ("t.xml", b"<a/>", "is no Pascal VOC annotation"),
    ],
)
def test_json_and_xml_that_hold_no_table(tmp_path, name, content, said):
    with pytest.raises(TableError, match=said):
        read_table(written(tmp_path, content, name))


def test_folders_whose_paths_say_what_is_there(tmp_path):
    for name in ("sub-01/ses-1/sub-01_T1w.png", "sub-02/sub-02_T1w.png", "sub-02/sub-03_T1w.png", "readme.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    table, _ = read_table(str(tmp_path), files="sub-{subject}/**/sub-{subject}_*")
    assert table.rows() == [("sub-01/ses-1/sub-01_T1w.png", "01", 1), ("sub-02/sub-02_T1w.png", "02", 2)]
    with pytest.raises(TableError, match=r"no image fits 'x/\{a\}'; the first is"):
        read_table(str(tmp_path), files="x/{a}")


def test_xml_elements(tmp_path):
    (tmp_path / "x").mkdir()
    for n in range(2):
        text = f"<r id='{n}'><m>a</m><m> b </m><image no='1'/><image no='2'/></r>"
        (tmp_path / f"x/{n}.xml").write_text(text)
    columns = {"no": "@no", "report": "/@id", "m": "/m"}
    table, _ = read_table(str(tmp_path / "x/*.xml"), each="image", columns=columns)
    assert table.drop(LINE, "file").rows() == [(no, report, "a|b") for report in "01" for no in "12"]


def test_whole_numbers_are_written_alike_in_every_format(tmp_path):
    written(tmp_path, b'[{"p": 7, "x": 0.5}, {"p": 7.0, "x": 1e300}]', "t.json")
    pl.DataFrame({"p": [7.0, None, 8.0], "x": [0.5, float("nan"), -0.0]}).write_parquet(tmp_path / "t.parquet")
    assert read_table(str(tmp_path / "t.json"))[0].select("p", "x").rows() == [("7", "0.5"), ("7", "1e+300")]
    rows = read_table(str(tmp_path / "t.parquet"))[0].select("p", "x").rows()
    assert rows == [("7", "0.5"), ("", ""), ("8", "0")]


def test_excel_formulas_without_a_value_are_an_error(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["path", "A"], ["a.png", 0], ["b.png", "=1+0"]):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(TableError, match=r"t\.xlsx:3: the formula '=1\+0' has no value: open and save the file"):
        read_table(str(tmp_path / "t.xlsx"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.png,1\nb.png,0\n", "t.csv:1: the first line has no names of columns, but 'a.png': add a line with names"),
        ("# exported 2024\npath,A\na.png,1\n", "t.csv:1: the first line has one cell, '# exported 2024', and others"),
        ("Title,,\npath,A,B\na.png,1,0\n", "t.csv:1: the first line has one cell, 'Title', and others have several"),
    ],
)
def test_a_first_line_without_names(tmp_path, text, said):
    written(tmp_path, text.encode(), "t.csv")
    with pytest.raises(TableError, match=re.escape(said)):
        read_table(str(tmp_path / "t.csv"))


def test_a_first_column_without_a_name_is_left_out(tmp_path):
    written(tmp_path, b",path\n0,a.png\n1,b.png\n", "t.csv")  # as pandas writes the index
    assert read_table(str(tmp_path / "t.csv"))[0]["path"].to_list() == ["a.png", "b.png"]


def test_a_line_for_excel_names_the_delimiter(tmp_path):
    written(tmp_path, b"sep=;\r\npath;note\r\na.png;x,y\r\n", "t.csv")
    table, _ = read_table(str(tmp_path / "t.csv"))
    assert table.rows() == [("a.png", "x,y", 3)]


def test_lines_of_json_end_at_line_feeds_alone(tmp_path):
    written(tmp_path, '{"path": "a.png", "note": "x\u2028y"}\n'.encode(), "t.jsonl")
    assert read_table(str(tmp_path / "t.jsonl"))[0]["note"].to_list() == ["x\u2028y"]


def test_coco_ids_may_be_text_or_numbers(tmp_path):
    image = {"id": 1, "file_name": "a.png", "width": 9, "height": 9}
    content = {"images": [image], "categories": [{"id": 1, "name": "Mass"}, {"id": 2, "name": "mass"}]}
    boxes = [{"image_id": "1", "category_id": n, "bbox": [n, n, 2, 2]} for n in (1, 2)]
    written(tmp_path, json.dumps(content | {"annotations": boxes}).encode(), "t.json")
    table, _ = read_table(str(tmp_path / "t.json"))
    assert table["classes"].to_list() == ["Mass"]
    assert len(json.loads(table["mask of Mass"][0])["union"]) == 2
    written(tmp_path, json.dumps(content | {"annotations": [boxes[0] | {"image_id": 7}]}).encode(), "t.json")
    with pytest.raises(TableError, match="has no annotation of its images: the first has image_id '7'"):
        read_table(str(tmp_path / "t.json"))


def test_json_lines_in_a_json_file(tmp_path):
    (tmp_path / "t.json").write_text('{"image": "a.png", "label": 1}\n{"image": "b.png", "label": 0}\n')
    table, _ = read_table(str(tmp_path / "t.json"))
    assert table.select("image", "label").rows() == [("a.png", "1"), ("b.png", "0")]


def test_coco_annotations_of_unknown_images_are_counted(tmp_path):
    box = {"category_id": 1, "bbox": [1, 1, 2, 2]}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}],
        "annotations": [{"image_id": 1, **box}, {"image_id": "01", **box}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"annotations of 1 images that it does not list are left out.*'01'"):
        table, _ = read_table(str(tmp_path / "t.json"))
    assert table["classes"].to_list() == ["dog"]
