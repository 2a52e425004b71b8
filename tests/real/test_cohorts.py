"""The tables of public data sets themselves, as the package torchxrayvision carries them."""

import csv
import gzip
import itertools
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from camscope.cohort.annotations import read_annotation
from camscope.cohort.assemble import assemble
from camscope.cohort.draft import draft
from camscope.cohort.layout import match, survey
from camscope.errors import AnnotationError

SPEC = find_spec("torchxrayvision")
DATA = Path(SPEC.origin).parent / "data" if SPEC and SPEC.origin else Path("missing")
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="torchxrayvision is not installed")

TABLES = {
    "Data_Entry_2017_v2020.csv.gz": "NIH ChestX-ray14",
    "chexpert_train.csv.gz": "CheXpert",
    "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz": "PadChest",
    "vinbigdata-train.csv.gz": "VinBigData",
    "siim-pneumothorax-train-rle.csv.gz": "SIIM-ACR Pneumothorax",
}


def first_rows(name, folder, *, rows=400):
    """The first rows of a real table, alone in a folder."""
    with gzip.open(DATA / name, "rt", newline="") as file:
        text = "".join(itertools.islice(file, rows))
    path = folder / name.replace("chexpert_", "").removesuffix(".gz")
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", TABLES)
def test_the_real_table_is_recognised(name, tmp_path):
    path = first_rows(name, tmp_path)
    layout, tables = match(survey(path))
    assert layout.name == TABLES[name]
    assert tables["main"].path == path
    proposal = draft(path, results=tmp_path)
    assert proposal.layout == layout.name
    assert proposal.labels
    assemble(proposal.section, {}, proposal.folder)


def test_run_lengths_of_siim_have_their_true_area(tmp_path):
    path = first_rows("siim-pneumothorax-train-rle.csv.gz", tmp_path)
    with path.open(newline="") as file:
        cells = {row[0]: row[1].strip() for row in csv.reader(file) if row[1].strip() not in ("-1", "EncodedPixels")}
    assert len(cells) > 50
    for name, cell in cells.items():
        mask = read_annotation(json.dumps({"runs": cell, "coding": "relative"}), (1024, 1024), root=tmp_path)
        assert mask.sum() == np.array(cell.split(), int)[1::2].sum()
        if name == "1.2.276.0.7230010.3.1.4.8323329.13666.1517875247.117800":
            assert mask.sum() == 30859
        with pytest.raises(AnnotationError, match="do not increase"):
            read_annotation(cell, (1024, 1024), root=tmp_path)
