"""A folder of explanations: nothing is replaced by another, and an index, a page and a sheet show all."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import camscope as cs
from camscope.errors import SettingError, StoreError
from camscope.gallery import MapFolder


@pytest.fixture(scope="module")
def e():
    model = cs.load("timm:test_resnet", weights="none", labels=["crane, bird", "crane, machine"])
    image = np.random.default_rng(0).random((40, 60, 3), np.float32)
    return dataclasses.replace(cs.explain(model, image, target=0), source="photos/a.jpg")


def changed(e, **changes):
    repeat = {**e.repeat, "weights_sha256": changes.pop("weights", e.repeat["weights_sha256"])}
    repeat["settings"] = changes.pop("settings", repeat["settings"])
    return dataclasses.replace(e, repeat=repeat, **changes)


OTHERS = {
    "a file of another format": {"source": "photos/a.png"},
    "a file of another folder": {"source": "b/a.jpg"},
    "a class with the same first name": {"label": "crane, machine", "index": 1},
    "another checkpoint": {"weights": "0"},
    "another layer": {"layer": "layer1"},
    "another setting of the method": {"settings": {"samples": 8}},
    "a name that looks the same as a file": {"model": "timm test_resnet"},
}


@pytest.mark.parametrize("files", ["{image}/{method}_{label}_{model}/{kind}", "{image}_{kind}.png"])
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_map_never_replaces_one_in_the_same_run_or_the_next(e, tmp_path, files, other):
    first = MapFolder(tmp_path, files=files, write="overlay,npy").save(e)
    for again in (False, True):
        folder = MapFolder(tmp_path, files=files, write="overlay,npy")
        if not again:
            folder.save(e)
            folder.finish()
            folder = MapFolder(tmp_path, files=files, write="overlay,npy")
        second = folder.save(changed(e, **other))
        assert not set(first.values()) & set(second.values())
        assert all(path.is_file() for path in (*first.values(), *second.values()))


def test_the_same_map_keeps_its_files(e, tmp_path):
    paths = []
    for scale in ("minmax", "max"):
        folder = MapFolder(tmp_path, scale=scale)
        paths.append(folder.save(e, "photos"))
        folder.finish()
    assert paths[0] == paths[1]
    assert json.loads(paths[0]["json"].read_text())["display"]["scale"] == "max"
    assert len(json.loads((tmp_path / "explanations.json").read_text())) == 1


def test_names_are_given_once_to_threads(e, tmp_path):
    folder = MapFolder(tmp_path, files="{image}_{kind}.png", write="overlay")
    several = [changed(e, weights=str(n)) for n in range(40)]
    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(lambda one: folder.save(one)["overlay"], several))
    assert len(set(paths)) == 40


def test_the_page_and_the_sheet_show_every_map(e, tmp_path):
    folder = MapFolder(tmp_path, write="overlay,json")
    for name in ("a&b <i>.jpg", "c#d?.png", "日本.png"):
        folder.save(changed(e, source=name, notes=("a <b>note</b>", "completeness residual below 1e-05: x")))
    folder.finish()
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 3
    assert "a&amp;b &lt;i&gt;.jpg" in page
    assert "a &lt;b&gt;note&lt;/b&gt;" in page
    assert "completeness" not in page
    assert Image.open(tmp_path / "contact_sheet.jpg").height > 400


def test_maps_without_pictures_have_an_index_alone(e, tmp_path):
    folder = MapFolder(tmp_path, write="npy")
    folder.save(e)
    folder.finish()
    assert (tmp_path / "explanations.json").is_file()
    assert not (tmp_path / "index.html").exists()


def test_what_cannot_be_used(e, tmp_path):
    with pytest.raises(SettingError, match=r"needs \{image\}"):
        MapFolder(tmp_path / "a", files="{kind}.png")
    with pytest.raises(SettingError, match=r"needs \{kind\}"):
        MapFolder(tmp_path / "a", files="{image}.png")
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    MapFolder(tmp_path / "b")
    (tmp_path / "b" / "explanations.json").write_text("[{}]")
    with pytest.raises(StoreError, match="cannot be read"):
        MapFolder(tmp_path / "b")
