"""What is computed, how often, and what becomes of whatever goes wrong."""

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
from PIL import Image

import camscope as cs
from camscope.cohort.store import FAILED, NOT_ASKED, OK
from camscope.explanation.batch import BatchExplainer
from camscope.images import Picture
from camscope.study import step as module
from camscope.study.study import Study


@pytest.fixture
def counts(monkeypatch):
    """Images forwarded, by model; maps, by method; decoded files."""
    found = Counter()
    over, maps, decode = BatchExplainer.over.__func__, BatchExplainer.maps, module.decode

    def counted_over(cls, model, samples, **settings):
        found[model.name] += len(samples)
        return over(cls, model, samples, **settings)

    def counted_maps(self, name, function, *, goals, settings):
        found[name] += len(goals)
        return maps(self, name, function, goals=goals, settings=settings)

    def counted_decode(content, source):
        found["decoded"] += 1
        return decode(content, source)

    monkeypatch.setattr(BatchExplainer, "over", classmethod(counted_over))
    monkeypatch.setattr(BatchExplainer, "maps", counted_maps)
    monkeypatch.setattr(module, "decode", counted_decode)
    return found


def run(path, out="out", **settings):
    return list(cs.run(Study.read(path), path.parent / out, device="cpu", **settings))


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def overlays(path):
    return {p.relative_to(path.parent / "out").as_posix() for p in (path.parent / "out").rglob("*.jpg")}


def of(rows, label, method="gradcam"):
    return [row for row in rows if (row["label"], row["method"]) == (label, method)]


def test_each_picture_is_decoded_once_and_forwarded_once_a_model(make_study, make_bundle, counts):
    path = make_study(explain='methods = ["gradcam", "layercam"]\nwhen = "all"')
    edit(path, "[explain]", f'[labels.Again]\ncolumn = "nodule"\nmodel = "{make_bundle("Nodule")}"\n[explain]')
    rows = run(path)
    assert counts == {"decoded": 8, "effusion": 8, "nodule": 8, "gradcam": 24, "layercam": 24}
    assert Counter(row["status"] for row in rows) == {OK: 48}
    assert len(overlays(path)) == 48


def test_labels_share_a_model_of_several_classes(make_study, counts):
    path = make_study(explain='when = "all"')
    spec = '{ spec = "timm:test_resnet", weights = "none", labels = ["a", "b", "Nodule"], input_size = 64 }'
    lines = path.read_text().splitlines()
    models = [i for i, line in enumerate(lines) if line.startswith("model =")]
    lines[models[0]] = f'model = {spec}\nclass = "b"'
    lines[models[1]] = f"model = {spec}"
    path.write_text("\n".join(lines))
    rows = run(path)
    (model,) = Study.read(path).models.values()
    assert counts[model.name] == 8
    assert [row["class"] for row in rows[:2]] == ["b", "Nodule"]
    sums = np.array([[row["probability"] for row in of(rows, label)] for label in ("Effusion", "Nodule")]).sum(0)
    assert (sums < 1).all()


def test_a_row_equals_explaining_its_picture(make_study):
    path = make_study()
    rows = run(path)
    study = Study.read(path)
    assert [row["case"] for row in rows] == [n for n in range(8) for _ in range(2)]
    for row in of(rows, "Effusion"):
        e = cs.explain(study.model("Effusion")[0], path.parent / "images" / row["image"], target=0)
        assert row["score"] == pytest.approx(e.score, rel=1e-5)
        assert row["probability"] == pytest.approx(e.probability, rel=1e-5)
        if row["truth"]:
            np.testing.assert_allclose(row["grid"], e.grid.ravel(), rtol=1e-5, atol=1e-7)
            assert (row["layer"], row["grid_height"], row["grid_width"]) == (e.layer, *e.grid.shape)
            assert (row["height"], row["width"]) == (40, 48)
            overlay = np.asarray(Image.open(path.parent / "out" / row["file"]))
            assert overlay.shape == (40, 48, 3)
        else:
            assert (row["status"], row["message"], row.get("file")) == (NOT_ASKED, "not present", None)


def test_outcomes_by_the_threshold(make_study):
    path = make_study(explain='when = "all"')
    scores = sorted(row["probability"] for row in of(run(path), "Effusion"))
    edit(path, 'mask = "box"', f'mask = "box"\nthreshold = {scores[4]}')
    for row in of(run(path), "Effusion"):
        assert row["prediction"] == (row["probability"] >= scores[4])
        assert row["outcome"] == ("T" if row["prediction"] == row["truth"] else "F") + "NP"[row["prediction"]]


@pytest.mark.parametrize("when", ["present", "predicted", "all"])
def test_when_limits_maps_and_nothing_else(make_study, when):
    path = make_study(explain=f'when = "{when}"')
    middle = sorted(row["probability"] for row in of(run(make_study(folder="other")), "Effusion"))[4]
    edit(path, 'mask = "box"', f'mask = "box"\nthreshold = {middle}')
    rows = run(path)
    for row in rows:
        assert row["score"] is not None
        assert row["outcome"] is not None
        wanted = {"present": row["truth"], "predicted": row["prediction"], "all": True}[when]
        assert (row["status"] == OK) == (row.get("grid") is not None) == wanted
        assert row["message"] == (None if wanted else f"not {when}")
    assert {row["status"] for row in of(rows, "Effusion")} == ({OK} if when == "all" else {OK, NOT_ASKED})


def test_the_same_again_computes_nothing(make_study, counts):
    path = make_study()
    first = run(path)
    counts.clear()
    assert [{k: v for k, v in row.items() if v is not None} for row in run(path)] == [
        {k: v for k, v in row.items() if v is not None} for row in first
    ]
    assert counts == {}


CHANGES = {
    "threshold": ('column = "nodule"', 'column = "nodule"\nthreshold = 0.4', {}),
    "colours": ("[explain]", '[explain]\ncmap = "jet"', {"decoded": 6}),
    "regions": ("border:0.10", "border:0.20", {"decoded": 6}),
    "more maps": ("[explain]", '[explain]\nwhen = "all"', {"decoded": 6, "effusion": 4, "nodule": 4, "gradcam": 8}),
    "a method": (
        "[explain]",
        '[explain]\nmethods = ["layercam", "gradcam"]',
        {"decoded": 6, "effusion": 4, "nodule": 4, "layercam": 8},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_study_computes_what_changed(make_study, counts, change):
    old, new, computed = CHANGES[change]
    path = make_study()
    before = {(row["key"], row["label"]): row.get("grid") for row in run(path)}
    pictures = {name: (path.parent / "out" / name).read_bytes() for name in overlays(path)}
    counts.clear()
    edit(path, old, new)
    rows = run(path)
    assert counts == computed
    assert all(before.get((row["key"], row["label"])) in (None, row.get("grid")) for row in rows)
    redrawn = {name for name in pictures if (path.parent / "out" / name).read_bytes() != pictures[name]}
    assert redrawn == (set(pictures) if change == "colours" else set())
    assert len(overlays(path)) == sum(row["status"] == OK for row in rows)
    assert rows_in(path) == len(rows)


def test_without_overlays(make_study, counts):
    path = make_study()
    with_them = run(path)
    counts.clear()
    edit(path, "[explain]", '[explain]\nfiles = ""')
    rows = run(path)
    assert counts == {}
    assert overlays(path) == set()
    assert {row.get("file") for row in rows} == {None}
    assert [row.get("grid") for row in rows] == [row.get("grid") for row in with_them]
    assert [row.get("mass:border:0.10") for row in rows] == [row.get("mass:border:0.10") for row in with_them]
    edit(path, 'files = ""', "")
    assert [row.get("file") for row in run(path)] == [row.get("file") for row in with_them]
    assert counts == {"decoded": 6}


def rows_in(path):
    return len(pl.read_parquet(path.parent / "out/rows/*.parquet"))


def test_one_model_changed(make_study, make_bundle, counts):
    path = make_study()
    run(path)
    counts.clear()
    edit(path, str(make_bundle("Nodule")), str(make_bundle("Nodule", 1)))
    run(path)
    assert counts == {"decoded": 8, "nodule": 8, "gradcam": 4}


def test_a_row_added(make_study, counts):
    path = make_study()
    run(path)
    counts.clear()
    Image.new("L", (48, 40), 9).save(path.parent / "images/new.png")
    with (path.parent / "cohort.csv").open("a") as file:
        file.write("new.png,P900,AP,1,0,\n")
    assert len(run(path)) == 18
    assert counts == {"decoded": 1, "effusion": 1, "nodule": 1, "gradcam": 1}


def test_a_changed_group_moves_the_overlay(make_study, counts):
    path = make_study()
    run(path)
    before = overlays(path)
    counts.clear()
    edit(path.parent / "cohort.csv", "P000/PA.png,P000,PA", "P000/PA.png,P000,LL")
    run(path)
    assert before - overlays(path) == {
        f"PA/P000/PA/gradcam_{name}.jpg" for name in ("Effusion_effusion", "Nodule_nodule")
    }
    assert overlays(path) - before == {
        f"LL/P000/PA/gradcam_{name}.jpg" for name in ("Effusion_effusion", "Nodule_nodule")
    }
    assert not (path.parent / "out/PA/P000").exists()
    assert counts == {"decoded": 1}


def test_changed_bytes_and_a_lost_overlay(make_study, counts):
    path = make_study()
    run(path)
    counts.clear()
    Image.new("L", (48, 40), 77).save(path.parent / "images/P000/PA.png")
    (path.parent / "out/PA/P001/PA/gradcam_Effusion_effusion.jpg").unlink()
    run(path)
    assert counts == {"decoded": 2, "effusion": 1, "nodule": 1, "gradcam": 2}
    assert len(overlays(path)) == 8


def test_what_fails_is_tried_again_and_leaves_no_old_overlay(make_study, counts):
    path = make_study()
    run(path)
    content = (path.parent / "images/P000/PA.png").read_bytes()
    (path.parent / "images/P000/PA.png").write_bytes(content[:200])
    rows = run(path)
    assert [row["status"] for row in rows[:3]] == [FAILED, FAILED, NOT_ASKED]
    assert "damaged or truncated" in rows[0]["message"]
    assert len(overlays(path)) == 6
    counts.clear()
    (path.parent / "images/P000/PA.png").write_bytes(content)
    rows = run(path)
    assert [row["status"] for row in rows[:3]] == [OK, OK, NOT_ASKED]
    assert counts == {"decoded": 1, "effusion": 1, "nodule": 1, "gradcam": 2}


def test_a_batch_that_fails_costs_only_the_picture_that_fails(make_study, monkeypatch):
    path = make_study()
    over = BatchExplainer.over.__func__

    def picky(cls, model, samples, **settings):
        if model.name == "effusion" and any("P001/PA" in sample.source for sample in samples):
            raise RuntimeError("no more memory\nand so on")
        return over(cls, model, samples, **settings)

    monkeypatch.setattr(BatchExplainer, "over", classmethod(picky))
    rows = run(path)
    (bad,) = [row for row in rows if row["status"] == FAILED]
    assert (bad["image"], bad["label"]) == ("P001/PA.png", "Effusion")
    assert bad["message"] == "RuntimeError: no more memory and so on"


def test_a_method_that_fails_costs_only_its_own_rows(make_study, monkeypatch):
    path = make_study(explain='methods = ["gradcam", "layercam"]')
    maps = BatchExplainer.maps

    def picky(self, name, function, *, goals, settings):
        if name == "layercam" and any("P000/PA" in self.samples[i].source for i in goals):
            raise IndexError("so it is")
        return maps(self, name, function, goals=goals, settings=settings)

    monkeypatch.setattr(BatchExplainer, "maps", picky)
    rows = run(path)
    bad = [(row["image"], row["label"], row["method"]) for row in rows if row["status"] == FAILED]
    assert bad == [("P000/PA.png", label, "layercam") for label in ("Effusion", "Nodule")]
    assert all(row["score"] is not None for row in rows)


def test_a_score_that_is_no_number(make_study, monkeypatch):
    path = make_study()
    study = Study.read(path)
    study.model("Nodule")[0].net.head.fc.bias.data.fill_(float("nan"))
    rows = list(cs.run(study, path.parent / "out", device="cpu"))
    assert {row["status"] for row in of(rows, "Nodule")} == {FAILED}
    assert not any(row.get("file") for row in of(rows, "Nodule"))
    assert "the score is nan" in of(rows, "Nodule")[0]["message"]
    assert {row["status"] for row in of(rows, "Effusion")} == {OK, NOT_ASKED}


def test_a_mask_that_does_not_fit(make_study):
    path = make_study()
    edit(path.parent / "cohort.csv", 'P000/PA.png,P000,PA,1,1,"4,4,20,24"', "P000/PA.png,P000,PA,1,1,none.png")
    row = run(path)[0]
    assert row["status"] == FAILED
    assert "there is no file" in row["message"]
    assert row["score"] is not None


def test_a_changed_mask_is_measured_again_without_the_model(make_study, counts):
    path = make_study()
    before = run(path)[0]
    counts.clear()
    edit(path.parent / "cohort.csv", 'P000/PA.png,P000,PA,1,1,"4,4,20,24"', 'P000/PA.png,P000,PA,1,1,"4,4,40,36"')
    after = run(path)[0]
    assert counts == {"decoded": 1}
    assert after["area:mask:label"] > before["area:mask:label"]
    assert after["grid"] == before["grid"]


def test_methods_that_are_one_say_so_whenever_they_were_computed(make_study):
    path = make_study(explain='methods = ["gradcam"]', folder="grown")
    run(path)
    edit(path, '["gradcam"]', '["hirescam", "gradcam"]')
    grown = run(path)
    fresh = run(make_study(explain='methods = ["hirescam", "gradcam"]', folder="fresh"))
    assert [row.get("notes") for row in grown] == [row.get("notes") for row in fresh]


def test_png_overlays_and_pictures_of_all_kinds(make_study):
    path = make_study(explain='when = "all"\nfiles = "{patient}/{image}_{label}.png"')
    draw = np.random.default_rng(0)
    for name, image in {
        "P000/PA.png": Image.fromarray(draw.integers(0, 255, (40, 48, 3), np.uint8)),
        "P000/AP.png": Image.fromarray(draw.integers(0, 255, (40, 48, 4), np.uint8)),
        "P001/PA.png": Image.fromarray(draw.integers(0, 60000, (40, 48), np.uint16)),
        "P001/AP.png": Image.fromarray(draw.integers(0, 255, (40, 48), np.uint8)).convert("1"),
    }.items():
        image.save(path.parent / "images" / name)
    rows = run(path)
    assert {row["status"] for row in rows} == {OK}
    for row in rows:
        with Image.open(path.parent / "out" / row["file"]) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (48, 40))


def test_an_overlay_that_cannot_be_encoded_fails_its_row(make_study, monkeypatch):
    path = make_study()
    monkeypatch.setattr(module, "drawn", lambda *_, **__: Image.new("RGB", (70000, 2)))
    rows = run(path)
    assert {row["status"] for row in rows} == {FAILED, NOT_ASKED}


def test_pictures_are_let_go(make_study, monkeypatch):
    """However long the cohort, only a few images are in memory at once."""
    import weakref

    alive, most = weakref.WeakSet(), 0
    init = Picture.__init__

    def counted(self, *args, **settings):
        nonlocal most
        init(self, *args, **settings)
        alive.add(self)
        most = max(most, len(alive))

    monkeypatch.setattr(Picture, "__init__", counted)
    monkeypatch.setattr(Picture, "__hash__", object.__hash__)
    run(make_study(60), batch_size=4)
    assert 0 < most <= 20


def test_the_record_says_what_made_it(make_study):
    path = make_study()
    run(path, seed=3)
    record = json.loads((path.parent / "out/study.json").read_text())
    assert record["finished"] is True
    assert record["run"] == {"engine": "eager", "device": "cpu", "batch_size": 16, "seed": 3, "precision": "float32"}
    assert record["models"]["Nodule"]["weights_sha256"] == Study.read(path).model("Nodule")[0].digest
