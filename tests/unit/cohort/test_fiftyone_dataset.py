"""Datasets of FiftyOne: their labels as cells, and the results of a study back into them.

FiftyOne needs a database, so these tests have a stand-in with the parts of its interface that are used here; with the
package installed and its database running, tests/real/test_fiftyone.py runs the same on the real one.
"""

import json
import os
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from camscope.cohort.fiftyone_dataset import fiftyone_records
from camscope.errors import MissingExtraError, TableError
from camscope.report.fiftyone_export import write_fiftyone
from camscope.study.run import run
from camscope.study.study import Study


class Label(SimpleNamespace):
    def to_dict(self):
        return vars(self)


class Sample(dict):
    """A sample: its fields are items, those of the package are attributes too."""

    def __init__(self, filepath, tags=(), metadata=None, **fields):
        super().__init__(fields)
        filepath = os.path.abspath(filepath)  # noqa: PTH100  as the package does
        self.id, self.filepath, self.tags, self.metadata = filepath, filepath, list(tags), metadata
        self.saved = False

    def save(self):
        self.saved = True


class Dataset:
    media_type = "image"

    def __init__(self, samples=()):
        self.samples, self.info, self.views = list(samples), {}, {}

    def get_field_schema(self):
        return dict.fromkeys(["id", "filepath", "tags", *(name for sample in self.samples for name in sample)])

    def iter_samples(self, **_):
        return iter(self.samples)

    def values(self, names):
        return [[getattr(sample, name) for sample in self.samples] for name in names]

    def add_sample(self, sample):
        self.samples.append(sample)
        return sample.id

    def __getitem__(self, number):
        return next(sample for sample in self.samples if sample.id == number)

    def save(self):
        pass

    def list_saved_views(self):
        return list(self.views)

    def load_saved_view(self, name):
        return self.views[name]


@pytest.fixture
def fiftyone(monkeypatch):
    module = ModuleType("fiftyone")
    module.datasets = {}
    module.list_datasets = lambda: list(module.datasets)
    module.load_dataset = module.datasets.__getitem__
    module.Dataset = lambda name, **_: module.datasets.setdefault(name, Dataset())
    module.Sample, module.Classification, module.Heatmap = Sample, Label, Label
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    return module


def test_labels_become_cells(fiftyone):
    found = Label(_cls="Detections", detections=[{"label": "Mass", "bounding_box": [0.5, 0.25, 0.25, 0.5]}])
    lung = Label(_cls="Polylines", polylines=[{"label": "Lung", "points": [[(0, 0), (0.5, 0), (0.5, 1)]]}])
    several = Label(_cls="Classifications", classifications=[{"label": "Mass"}, {"label": "Effusion"}])
    size = SimpleNamespace(height=40, width=60)
    first = Sample("/a.png", ["x", "y"], size, finding=several, view=Label(_cls="Classification", label="AP"), age=61)
    first |= {"truth": found, "lung": lung, "mask": Label(_cls="Segmentation", mask_path="/m.png"), "vector": [1, 2]}
    none = Label(_cls="Classifications", classifications=[])
    dataset = Dataset([first, Sample("/b.png", finding=none, view=None, age=None, truth=None, lung=None)])
    for sample in dataset.samples:
        for name in first:
            sample.setdefault(name, None)
    fiftyone.datasets["xrays"] = dataset
    one, other = fiftyone_records("fiftyone:xrays")
    assert (one["path"], one["tags"], one["age"], one["view"]) == ("/a.png", "x|y", 61, "AP")
    assert (one["finding"], other["finding"]) == ("Mass|Effusion", "[]")  # an empty list says that there is none
    assert json.loads(one["truth mask of Mass"]) == {"size": [40, 60], "boxes": [[30, 10, 45, 30]]}
    assert json.loads(one["lung mask of Lung"]) == {"size": [40, 60], "polygons": [[0, 0, 30, 0, 30, 40]]}
    assert (one["mask"], other["mask"], other["view"]) == ("/m.png", "", "")
    assert "vector" not in one


def test_the_size_of_a_sample_without_metadata_is_that_of_its_file(fiftyone, tmp_path):
    Image.fromarray(np.zeros((30, 20), np.uint8)).save(tmp_path / "a.png")
    box = {"label": "Mass", "bounding_box": [0.5, 0.0, 0.5, 1.0]}
    paths = (tmp_path / "a.png", tmp_path / "missing.png")
    made = [Sample(path, truth=Label(_cls="Detection", **box)) for path in paths]
    fiftyone.datasets["xrays"] = Dataset(made)
    one, missing = fiftyone_records("fiftyone:xrays")
    assert json.loads(one["truth mask of Mass"]) == {"size": [30, 20], "boxes": [[10, 0, 20, 30]]}
    assert (missing["truth"], missing["truth mask of Mass"]) == ("", "")
    assert [sample.metadata for sample in made] == [None, None]  # reading writes nothing into the dataset


def test_what_is_not_there_is_said(fiftyone, monkeypatch):
    fiftyone.datasets["xrays"] = Dataset()
    with pytest.raises(TableError, match="no dataset called 'xray'; nearest: 'xrays'"):
        fiftyone_records("fiftyone:xray")
    with pytest.raises(TableError, match="no saved view called 'few'"):
        fiftyone_records("fiftyone:xrays#few")
    fiftyone.datasets["xrays"].media_type = "video"
    with pytest.raises(TableError, match="has media of type 'video': give a dataset of images"):
        fiftyone_records("fiftyone:xrays")
    fiftyone.list_datasets = lambda: 1 / 0
    with pytest.raises(TableError, match="cannot be opened"):
        fiftyone_records("fiftyone:xrays")
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(MissingExtraError, match=r"camscope\[fiftyone\]"):
        fiftyone_records("fiftyone:xrays")


def test_results_go_back_to_their_samples(fiftyone, make_study, tmp_path):
    file = make_study(4)
    file.write_text(file.read_text().replace('root = "images"', 'root = "../cohort/images"'))
    study = Study.read(file)
    list(run(study, tmp_path / "out"))
    first = next(study.cohort.cases()).source
    known = Sample(first, ["mine", "Effusion RELIES on cue:token"])
    fiftyone.datasets["xrays"] = Dataset([known])
    assert write_fiftyone(tmp_path / "out", "fiftyone:xrays") == 4
    samples = fiftyone.datasets["xrays"].samples
    assert (len(samples), samples[0] is known, known.saved) == (4, True, True)
    assert known.tags == ["mine"]  # a tag of an earlier audit is gone
    assert known["camscope_Effusion_truth"].label == "Effusion"
    assert known["camscope_Effusion"].label in ("Effusion", "not Effusion")
    assert 0.5 <= known["camscope_Effusion"].confidence <= 1
    heat = known["camscope_Effusion_gradcam"]
    assert heat.map.shape == (40, 48)
    assert heat.map.min() >= 0
    assert heat.range[1] == pytest.approx(heat.map.max()) or heat.map.max() == 0
    assert write_fiftyone(tmp_path / "out", "xrays") == 4
    assert len(samples) == 4  # the same samples again
    absent = next(sample for sample in samples if sample["camscope_Effusion_truth"].label == "not Effusion")
    assert "camscope_Effusion_gradcam" not in absent
