"""A dataset of the real FiftyOne, with its database: explained, and the results written back."""

import numpy as np
import pytest
from PIL import Image

from running import inside

fo = pytest.importorskip("fiftyone")

pytestmark = pytest.mark.slow


@pytest.fixture
def dataset(tmp_path):
    dataset = fo.Dataset("camscope test", overwrite=True)
    for n in range(6):
        path = tmp_path / f"{n}.png"
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (40, 60), np.uint8)).save(path)
        sample = fo.Sample(filepath=str(path), patient=f"P{n // 2}")
        sample["finding"] = fo.Classifications(classifications=[fo.Classification(label="Mass")] if n % 2 else [])
        sample["truth"] = fo.Detections(detections=[fo.Detection(label="Mass", bounding_box=[0.5, 0.25, 0.25, 0.5])])
        dataset.add_sample(sample)
    yield dataset
    dataset.delete()


def test_there_and_back(dataset, tmp_path):
    model = ["--model", "timm:test_resnet", "--weights", "none", "--labels", "Mass,Other"]
    done = inside("init", "fiftyone:camscope test", *model, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = inside("study", "study.toml", "--out", "results", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = inside("report", "results", "--fiftyone", "camscope test", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    dataset.reload()
    assert len(dataset) == 6
    assert dataset.count("camscope_Mass") == 6
    assert dataset.count("camscope_Mass_gradcam") == 3  # of the present cases
