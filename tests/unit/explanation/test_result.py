import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import camscope as cs
from camscope.errors import SettingError
from camscope.explanation.file_kinds import FILES
from camscope.images import Picture, Window


@pytest.fixture
def e(tmp_path):
    source = tmp_path / "p.png"
    pixels = np.linspace(0, 1, 40 * 60, dtype=np.float32).reshape(40, 60, 1)
    Image.fromarray((pixels[..., 0] * 255).astype(np.uint8)).save(source)
    heatmap = np.zeros((40, 60), np.float32)
    heatmap[10:20, 20:30] = 4.0
    return cs.Explanation(
        heatmap,
        np.array([[-1.0, 2.0], [4.0, 0.0]], np.float32),
        label="cat",
        index=3,
        score=7.25,
        probability=0.875,
        model="net",
        method="gradcam",
        layer="layer4",
        source=str(source),
        notes=("a note",),
        picture=Picture(pixels, str(source)),
        window=Window((40, 60), (0, 10), (40, 40)),
        top=(("cat", 0.875), ("dog", 0.125)),
        repeat={"settings": {"chunk": 4}},
    )


def test_save_writes_each_kind(e, tmp_path):
    paths = e.save(tmp_path / "out", scale="max", cmap="byr", opacity=0.4)
    assert [path.name for path in paths] == list(FILES.values())[:7]
    images = {path.name: np.asarray(Image.open(path)) for path in paths if path.suffix in (".png", ".jpg")}
    assert images["original.png"].shape == (40, 60, 3)
    assert images["grayscale.png"].shape == (40, 60)
    assert images["grayscale.png"][15, 25] == 255
    assert images["grayscale.png"][0, 25] == 0
    high, low = images["heatmap.png"][15, 25].astype(int), images["heatmap.png"][5, 25].astype(int)
    assert high[0] > high[2] + 100
    assert low[2] > low[0] + 100
    assert images["panel.png"].shape[1] > 3 * 60
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "map.npy"), e.grid)


def test_the_overlay_leaves_uncoloured_what_was_not_seen(e):
    overlay = np.asarray(e.overlay())
    np.testing.assert_array_equal(overlay[:, :10], e.picture.rgb[:, :10])
    assert (overlay[:, 10:50] != e.picture.rgb[:, 10:50]).any()


def test_the_json_has_everything_needed_to_repeat_it(e, tmp_path):
    e.save(tmp_path, write="json", scale="fixed:0,8")
    content = json.loads((tmp_path / "explanation.json").read_text(encoding="utf-8"))
    assert content["raw"] == {"min": -1.0, "max": 4.0, "sum": 5.0}
    assert content["label"] == "cat"
    assert content["index"] == 3
    assert content["top"][1] == {"label": "dog", "value": 0.125}
    assert content["settings"] == {"chunk": 4}
    assert content["window"] == {"picture": [40, 60], "start": [0, 10], "extent": [40, 40]}
    assert content["display"] == {"scale": "fixed:0,8", "low": 0.0, "high": 8.0, "cmap": "byr", "opacity": 0.5}
    assert content["notes"] == ["a note"]
    assert {"camscope", "torch", "timm", "python"} <= set(content["versions"])
    assert content["picture_sha256"] == hashlib.sha256(Path(e.source).read_bytes()).hexdigest()


def test_only_what_is_asked_for_is_written(e, tmp_path):
    e.save(tmp_path / "few", write="overlay,npy")
    assert sorted(path.name for path in (tmp_path / "few").iterdir()) == ["map.npy", "overlay.jpg"]
    with pytest.raises(SettingError, match="no kind of file called 'overlai'; nearest: 'overlay'"):
        e.save(tmp_path / "none", write=["overlai"])
    assert not (tmp_path / "none").exists()


def test_it_shows_itself_in_a_notebook_and_as_a_figure(e):
    assert e._repr_png_().startswith(b"\x89PNG")
    figure = e.figure(scale="max")
    assert isinstance(figure, Figure)
    assert any("cat" in axes.get_title() for axes in figure.axes)
    assert figure.axes[-1].get_ylim() == (0.0, 4.0)


def test_scaling_looks_only_at_what_was_seen(e):
    e.heatmap[0, 0] = 100.0
    assert e.scaled("max")[1] == (0.0, 4.0)


def test_however_many_files_are_written_the_map_is_scaled_once(e, tmp_path, monkeypatch):
    scaled = []
    original = cs.render.scale
    monkeypatch.setattr("camscope.render.scale", lambda *given: scaled.append(given) or original(*given))
    e.save(tmp_path / "all")
    assert len(scaled) == 1
    e.save(tmp_path / "few", write="original,npy")
    assert len(scaled) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_a_file_name_that_is_not_utf8_is_kept(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    Image.new("RGB", (20, 16), "red").save(path)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    e = cs.explain(net, path, preprocess=cs.Preprocess((32, 32)))
    e.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "explanation.json").read_text(encoding="utf-8"))["source"] == str(path)


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_figures_can_be_vectors(e, tmp_path, kind):
    (path,) = e.save(tmp_path, write=kind)
    assert path.name == f"figure.{kind}"
    assert path.read_bytes()[:5] in (b"<?xml", b"%PDF-")
    assert e.figure()._repr_png_().startswith(b"\x89PNG")


def test_a_pattern_names_the_files(e, tmp_path):
    paths = e.save(tmp_path, write="overlay,npy", files="{method}/{image}_{kind}.png")
    assert {path.relative_to(tmp_path).as_posix() for path in paths} == {
        f"{e.method}/{Path(e.source).stem}_overlay.png",
        f"{e.method}/{Path(e.source).stem}_map.npy",
    }
    assert Image.open(paths[0]).format == "PNG"


@pytest.mark.parametrize("pattern", ["{image}", "../{kind}", "/{kind}", "{kind!r}", "{kind", "{knd}"])
def test_patterns_that_cannot_be_used(e, tmp_path, pattern):
    with pytest.raises(SettingError):
        e.save(tmp_path / "out", files=pattern)
    assert not (tmp_path / "out").exists()


def test_the_record_of_another_explanation_is_not_replaced_in_silence(e, tmp_path, recwarn):
    e.save(tmp_path)
    e.save(tmp_path, write="overlay")
    e.save(tmp_path)
    assert not recwarn  # the same again
    other = replace(e, label="dog", index=1)
    other.save(tmp_path, files="{label}_{kind}.png", write="overlay")
    assert not recwarn
    with pytest.warns(UserWarning, match=r"explanation.json of .* is replaced by that of .*\(dog, .*MapFolder") as told:
        other.save(tmp_path)
    assert told[0].filename == __file__
    (tmp_path / "explanation.json").write_text("damaged")
    other.save(tmp_path)
    assert not recwarn
