"""camscope audit and the end of camscope study, on phantoms."""

import json

import polars as pl
import pytest

from camscope.phantoms.cohort import write_cohort
from running import inside


def command(*arguments):
    return inside(*arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small cohort, run and audited by the command; its labels cut to two."""
    place = tmp_path_factory.mktemp("phantoms")
    study = write_cohort(place, patients=45, size=(96, 96))
    text = study.read_text(encoding="utf-8")
    head, *labels = text.split("\n[labels.")
    tail = "\n[explain]" + labels[-1].partition("\n[explain]")[2]
    kept = [label.partition("\n[explain]")[0] for label in labels if label.startswith(("Effusion", "Nodule"))]
    text = "\n[labels.".join([head, *kept]) + tail.replace(
        "delta = 0.10", 'delta = 0.10\nreplicates = 499\nproperties = ["contrast", "frame", "marks"]'
    )
    study.write_text(text, encoding="utf-8")
    done = command("study", study, "--out", place / "results")
    assert done.returncode == 0, done.stderr
    return place, done.stdout


def test_the_study_ends_in_verdicts(folder):
    place, said = folder
    found = json.loads((place / "results" / "audit.json").read_text(encoding="utf-8"))
    assert set(found["labels"]) == {"Effusion", "Nodule"}
    for label, one in found["labels"].items():
        for region, judged in one["regions"].items():
            assert f"{judged['verdict']:<19} {region}: {judged['reason']}" in said
            assert judged["verdict"] != "RELIES" or judged["effect"]["p_adjusted"] < 0.05
        assert label in said
    assert found["labels"]["Nodule"]["regions"]["cue:token"]["effect"]["effect"]["estimate"] < -1
    images, regions, fixed, cues = found["labels"]["Effusion"]["cases"], 4, 2, 1
    most = 1 + regions * (2 * 2 + 1) + fixed * 2 * 2 * (2 + cues) + 3 + 1
    exchanged = found["labels"]["Effusion"]["patients"] * (2 * 49 + 4 * 11)  # cells, and properties
    assert found["labels"]["Effusion"]["forwards"] <= images * most + exchanged


def test_the_tables_hold_what_the_json_says(folder):
    place, _ = folder
    found = json.loads((place / "results" / "audit.json").read_text(encoding="utf-8"))["labels"]
    table = pl.read_parquet(place / "results" / "audit.parquet")
    changes = pl.read_parquet(place / "results" / "audit_changes.parquet")
    for label, one in found.items():
        for region, judged in one["regions"].items():
            own = table.filter((pl.col("label") == label) & (pl.col("region") == region))
            assert set(own["verdict"]) == {judged["verdict"]}
            for effect in judged["effects"]:
                (estimate,) = own.filter(
                    (pl.col("stratum") == effect["stratum"])
                    & (pl.col("test") == effect["test"])
                    & (pl.col("by") == effect["by"])
                    & (pl.col("fill_in") == "all")
                )["effect_estimate"]
                assert estimate == pytest.approx(effect["effect"]["estimate"])
    assert set(changes["test"]) <= {"remove", "exchange", "insert", "only", "swap", "blur"}
    assert changes["region_log_odds"].is_finite().all()


def test_a_user_without_a_cue_column_who_asks_for_the_border_alone(folder):
    """The token is as frequent with the label as without it, and the model uses nothing else."""
    place, _ = folder
    study = place / "border.toml"
    study.write_text(
        '[cohort]\ntable = "cohort.csv"\n\n[labels.Nodule]\ncolumn = "nodule"\nmodel = "models/nodule"\n\n'
        '[audit]\nshortcuts = ["border:0.10"]\nproperties = []\nreliance_map = false\nreplicates = 499\n',
        encoding="utf-8",
    )
    done = command("study", study, "--out", place / "border")
    assert done.returncode == 0, done.stderr
    assert "RESPONDS            border:0.10: The Nodule model responds to border:0.10: replacing it with" in done.stdout


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        ([], "nothing has changed since the audit in this folder, so it is not run again"),
        pytest.param(
            ["--again"],
            "report.html was written before this audit: run `camscope report",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_again_alone_and_the_same(folder, flags, note):
    place, _ = folder
    before = (place / "results" / "audit.json").read_bytes()
    done = command("audit", place / "results", "--json", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(before)
    assert note in done.stderr


def test_check_foretells_the_audit(folder):
    place, _ = folder
    done = command("study", "--check", place / "study.toml", "--json")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)["audit"]
    found = json.loads((place / "results" / "audit.json").read_text(encoding="utf-8"))
    assert found["forwards"] <= planned["forwards"] <= 4 * found["forwards"]
    assert planned["seconds"] > 0
    done = command("study", "--check", place / "study.toml")
    assert f"audit: at most {planned['forwards']} forwards; about " in done.stdout


def test_a_folder_without_a_study(tmp_path):
    done = command("audit", tmp_path)
    assert done.returncode == 2
    assert "there is no study in" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ('when = "all"', 'when = "all"\nlayer = "stages.1"'),
        pytest.param('methods = ["gradcam"]', 'methods = ["fullgrad"]', marks=pytest.mark.slow),
    ],
    ids=["another layer", "maps as large as the input"],
)
def test_maps_of_another_grid_are_audited_too(tmp_path, was, now):
    study = write_cohort(tmp_path, patients=12, size=(64, 64))
    head, label, *_ = study.read_text(encoding="utf-8").split("\n[labels.")
    tail = study.read_text(encoding="utf-8").partition("\n[explain]")[2]
    text = f"{head}\n[labels.{label}\n[explain]{tail}".replace(
        "delta = 0.10", "delta = 0.10\nreplicates = 99\nproperties = []"
    )
    study.write_text(text.replace(was, now), encoding="utf-8")
    done = command("study", study, "--out", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "results" / "audit.json").read_text(encoding="utf-8"))["labels"].values()
    grid = pl.read_parquet(tmp_path / "results" / "rows" / "*.parquet").drop_nulls("grid")["grid_height"][0]
    assert grid != 8
    assert all(len(null) == grid for null in found["null_maps"].values())
    nulls = found["regions"]["border:0.10"]["heat"]["nulls"]
    assert all(0 < value < 3 for value in nulls["random weights"] + nulls["random CAM"])
