"""Damaged and odd files through every reader: an answer or a CamscopeError, never another exception.

Hypothesis damages valid files (bits, bytes, cuts, repeats, numbers in headers) and makes up texts. A file that ends in
another exception is written to ``found/READER-HASH``, stays in the repository, and is read at every run from then on.
"""

import contextlib
import gzip
import hashlib
import io
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from camscope.cohort.annotations import read_annotation
from camscope.cohort.tables import read_table
from camscope.errors import CamscopeError
from camscope.images import decode, peek
from camscope.models import bundle
from camscope.models.labels import read_labels
from camscope.models.weights import read_weights
from camscope.study.study import Study

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

pytestmark = pytest.mark.slow

FOUND = Path(__file__).with_name("found")
SIZE = (16, 16)
DRAW = np.random.default_rng(0)


def picture(kind, mode="RGB", **options):
    file = io.BytesIO()
    array = DRAW.integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(array).convert(mode).save(file, kind, **options)
    return file.getvalue()


def dicom(syntax="1.2.840.10008.1.2.1"):
    pydicom = pytest.importorskip("pydicom")
    d = pydicom.dataset.Dataset()
    d.file_meta = pydicom.dataset.FileMetaDataset()
    d.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = "1.2.3"
    d.PatientID, d.ViewPosition, d.Rows, d.Columns = "7", "AP", *SIZE
    d.SamplesPerPixel, d.PhotometricInterpretation, d.PixelRepresentation = 1, "MONOCHROME2", 0
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit, d.WindowCenter, d.WindowWidth = 15, 100, 50
    d.PixelData = DRAW.integers(0, 4096, SIZE, np.uint16).tobytes()
    if syntax != d.file_meta.TransferSyntaxUID:
        d.compress(syntax)
    file = io.BytesIO()
    d.save_as(file, enforce_file_format=True)
    return file.getvalue()


def written(write):
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def excel():
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (FRAME.columns, *FRAME.rows()):
        book.active.append(row)
    return written(book.save)


CSV = b'image,patient,label,box\na.png,P1,1,"1,2,3,4"\nb.png,P2,0,\n"c ""x"".png",P3,uncertain,\n'
FRAME = pl.DataFrame({"image": ["a.png", "b.png"], "patient": ["P1", "P2"], "label": [1, 0]})
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}],
    "annotations": [
        {"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]},
        {"image_id": 1, "category_id": 1, "segmentation": {"counts": "05;", "size": [8, 8]}},
    ],
    "categories": [{"id": 1, "name": "dog"}],
}
XML = (
    b"<annotation><filename>a.png</filename><size><width>8</width><height>8</height></size><object><name>dog</name>"
    b"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></object></annotation>"
)
STUDY = b"""[cohort]
table = "t.csv"
image = "img/{image}.png"
patient = { from = "image", pattern = "(\\\\d+)" }
masks = { lung = { file = "mask", values = [1, 2] } }
join = [{ table = "t.csv", on = ["image"] }]
[labels.Edema]
column = "label"
contains = "x"
model = { spec = "timm:resnet10t", weights = "none", mean = [0.5], input_size = 32 }
[explain]
methods = ["gradcam", "layercam"]
when = "all"
[audit]
disease = ["mask:label"]
shortcuts = ["border:0.10"]
properties = ["contrast"]
"""
CELLS = (
    b"1,2,3,4;5,6,7,8",
    b"[[1, 2, 3, 4]]",
    b"1 3 20 4",
    b'{"counts": "05;", "size": [16, 16]}',
    b'{"counts": [5, 3, 248], "size": [16, 16]}',
    b'{"polygons": [[1, 1, 9, 1, 9, 9]], "size": [16, 16]}',
    b'{"runs": "2 3 4 5", "coding": "relative"}',
    b'{"union": ["1 3", "4,4,5,5"]}',
    b'{"file": "a.png", "values": [1]}',
)
STATE = {"layer.weight": torch.zeros(2, 3), "layer.bias": torch.zeros(2)}
BUNDLE = {
    "format": 1,
    "name": "a",
    "spec": "timm:resnet10t",
    "options": {"in_chans": 1},
    "classes": 1,
    "labels": ["a"],
    "outcome": "any",
    "preprocess": {"input_size": [32, 32], "mean": [0.5], "std": [0.5], "fit": "squash", "interpolation": "bicubic"},
    "weights_sha256": "0",
}


def as_file(name, read):
    """Return a reader of bytes that reads them from a file of a name."""

    def reader(content):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(content)
            read(path)

    return reader


def as_table(name):
    return as_file(name, lambda path: read_table(str(path)))


def as_image(suffix):
    def reader(content):
        picture = decode(content, f"a{suffix}")
        assert picture.rgb.ndim == 3

    return reader


def read_study(path):
    (path.parent / "t.csv").write_bytes(CSV)
    Study.read(path)


READERS = {
    "csv": (as_table("t.csv"), [CSV, CSV.replace(b",", b";"), CSV.decode().encode("utf-16")]),
    "gz": (as_table("t.csv.gz"), [gzip.compress(CSV)]),
    "xlsx": (as_table("t.xlsx"), [excel()]),
    "parquet": (as_table("t.parquet"), [written(FRAME.write_parquet)]),
    "json": (as_table("t.json"), [json.dumps(COCO).encode(), FRAME.write_json().encode()]),
    "jsonl": (as_table("t.jsonl"), [FRAME.write_ndjson().encode()]),
    "xml": (as_table("t.xml"), [XML]),
    "cell": (lambda content: read_annotation(content.decode("utf-8", "replace") or "-", SIZE, root="."), CELLS),
    "study": (as_file("study.toml", read_study), [STUDY]),
    "labels": (as_file("labels.json", read_labels), [b'["a", "b"]', b'{"a": 0, "b": 1}', b'{"0": "a", "1": "b"}']),
    "label_csv": (as_file("labels.csv", read_labels), [b"index,name\n0,a\n1,b\n"]),
    "pth": (as_file("w.pth", read_weights), [written(lambda file: torch.save(STATE, file))]),
    "safetensors": (as_file("w.safetensors", read_weights), [save(STATE)]),
    "bundle": (as_file("model.json", lambda path: bundle.read(path.parent)), [json.dumps(BUNDLE).encode()]),
    ".png": (as_image(".png"), [picture("PNG"), picture("PNG", "P"), picture("PNG", "LA")]),
    ".jpg": (as_image(".jpg"), [picture("JPEG"), picture("JPEG", "L"), picture("JPEG", "CMYK")]),
    ".gif": (as_image(".gif"), [picture("GIF", "P")]),
    ".bmp": (as_image(".bmp"), [picture("BMP")]),
    ".webp": (as_image(".webp"), [picture("WEBP")]),
    ".tif": (as_image(".tif"), [picture("TIFF"), picture("TIFF", compression="tiff_lzw")]),
    ".dcm": (as_image(".dcm"), [dicom(), dicom("1.2.840.10008.1.2.5")]),
    "header": (as_file("a.dcm", lambda path: peek(str(path))), [dicom()]),
}
TEXTS = ("csv", "json", "jsonl", "xml", "cell", "study", "labels", "label_csv", "bundle")


@st.composite
def damaged(draw, samples):
    """A valid file with up to four changes."""
    content = bytearray(draw(st.sampled_from(list(samples))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "put", "cut", "drop", "repeat", "number"]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "put":
            content[at:at] = draw(st.binary(min_size=1, max_size=6))
        elif kind == "cut":
            del content[at:]
        elif kind == "drop":
            del content[at : at + draw(st.integers(1, 40))]
        elif kind == "repeat":
            content[at:at] = content[at : at + 60] * draw(st.integers(1, 3))
        else:
            value = draw(st.sampled_from([0, 1, 255, 65535, 2**31 - 1, 2**32 - 1]))
            content[at : at + 4] = value.to_bytes(4, draw(st.sampled_from(["little", "big"])))
    return bytes(content)


@st.composite
def made_up(draw, samples):
    """A valid text, one of whose words is another, odd one."""
    words = draw(st.sampled_from(list(samples))).decode("utf-8", "replace")
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(0, len(words)))
        odd = draw(st.sampled_from(ODD) | st.text(max_size=8))
        words = words[:first] + odd + words[first + draw(st.integers(0, 12)) :]
    return words.encode("utf-8", "surrogatepass")


ODD = (
    *(
        "null",
        "NaN",
        "-1",
        "1e999",
        "9" * 400,
        "true",
        "[]",
        "{}",
        "[[[[[[",
        '"',
        "'",
        "\\",
        "\0",
        "\ufeff",
        "\u202e",
        ";",
    ),
    *(
        "::",
        "s3://x",
        "file:///",
        "../../..",
        "__line__",
        "{image:d}",
        "{image!x}",
        "{0}",
        "(",
        "(?P<a",
        "\r",
        "\n\n",
        "=",
    ),
)


def survives(name, content):
    """Read the content; keep it if anything but a CamscopeError is raised."""
    try:
        with warnings.catch_warnings(), contextlib.suppress(CamscopeError):
            warnings.simplefilter("ignore")
            READERS[name][0](content)
    except Exception:
        FOUND.mkdir(exist_ok=True)
        (FOUND / f"{name.lstrip('.')}-{hashlib.sha256(content).hexdigest()[:12]}").write_bytes(content)
        raise


@pytest.mark.parametrize("name", READERS)
def test_valid_files_are_read(name):
    read, samples = READERS[name]
    for sample in samples:
        with contextlib.suppress(*([CamscopeError] if name in ("study", "bundle", "cell") else [])):
            read(sample)


@pytest.mark.parametrize(
    ("name", "changed"), [*((name, damaged) for name in READERS), *((name, made_up) for name in TEXTS)]
)
def test_damaged_files_and_odd_texts_are_one_sentence(name, changed):
    @hypothesis.settings(
        max_examples=300, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(changed(READERS[name][1]))
    def check(content):
        survives(name, content)

    check()


@pytest.mark.parametrize("path", sorted(FOUND.glob("*-*")), ids=lambda path: path.name)
def test_what_was_found_once(path):
    name = path.name.rpartition("-")[0]
    survives(name if name in READERS else f".{name}", path.read_bytes())
