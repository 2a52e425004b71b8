"""Studies whose rows are written by hand, and a browser that opens their reports from disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from camscope.cohort.store import frame
from camscope.files import write_parquet
from camscope.study.config import StudyFile
from camscope.study.rows import map_values, schema

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PLAN = "0123abcd"
SIZE = (60, 90)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a screen."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    if CHROMIUM is None:
        pytest.skip("the browser tests need chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of desktop size; fails the test on errors, messages, dialogs and requests that leave the disk."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, heard = context.new_page(), []
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or heard.append(request.url))
    yield page
    context.close()
    assert not heard


def study_file(labels: list[str]) -> dict[str, Any]:
    return {
        "cohort": {
            "table": "cohort.csv",
            "patient": "patient",
            "group": ["view"],
            "cues": {"token": {"column": "token"}},
            "strata": ["site"],
        },
        "labels": {label: {"column": "c", "model": "none"} for label in labels},
        "explain": {"when": "all"},
        "audit": {"disease": ["center:0.5"], "shortcuts": ["border:0.10"]},
    }


@pytest.fixture(scope="session")
def write_study(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the folder of a study; the maps have 5 x 7 cells on a window within the images."""

    def write(
        *,
        cases: int = 24,
        labels: tuple[str, ...] = ("Effusion", "Nodule"),
        patient: Callable[[int], str] = lambda n: f"PAT-{n // 2:03}",
        image: Callable[[int], str] = lambda n: f"images/{n:03}.png",
        view: Callable[[int], str] = lambda n: "AP" if n % 3 else "PA",
        message: str = "there is no file",
        reason: str = "Whether it relies on the border is not shown.",
        pictures: bool = True,
    ) -> Path:
        tmp_path = tmp_path_factory.mktemp("study")
        file = StudyFile.model_validate(study_file(list(labels)))
        draw, rows, digests = np.random.default_rng(0), [], {}
        for n in range(cases):
            if pictures or n == 0:
                path = tmp_path / (image(n) if pictures else "one.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.integers(0, 255, SIZE, np.uint8)).save(path)
                digests[n] = hashlib.sha256(path.read_bytes()).hexdigest()
            for k, label in enumerate(labels):
                name = image(n) if pictures else "one.png"
                row = {"case": n, "line": n + 2, "image": name, "patient": patient(n), "group": view(n)}
                row |= {"label": label, "method": "gradcam", "stratum:site": "s", "cue:token": n % 4 == 0}
                row |= {"truth": n % 2 == k, "model": "none", "class": label, "file": f"maps/{n}_{k}.jpg"}
                if n % 11 == 10:
                    rows.append(row | {"status": "failed", "message": message, "file": None})
                    continue
                probability = float(draw.uniform(0.01, 0.99))
                log_odds = float(np.log(probability / (1 - probability)))
                row |= {"score": log_odds, "probability": probability, "log_odds": log_odds}
                row["prediction"] = probability >= 0.5
                row["outcome"] = ("T" if row["prediction"] == row["truth"] else "F") + "NP"[int(row["prediction"])]
                row |= {"height": SIZE[0], "width": SIZE[1], "image_sha256": digests[n if pictures else 0]}
                row |= {"status": "ok", "layer": "last", "notes": ["a note"] if n == 0 else []}
                row |= map_values(draw.normal(size=(5, 7)).astype(np.float32), (5.5, -4.0, 48.0, 98.0))
                for region, area in (("center:0.5", 0.25), ("border:0.10", 0.36)):
                    mass = float(draw.uniform())
                    row |= {f"mass:{region}": mass, f"area:{region}": area, f"enrichment:{region}": mass / area}
                    row[f"peak:{region}"] = mass > 0.5
                rows.append(row)
        out = tmp_path / "results"
        (out / "rows").mkdir(parents=True)
        table = frame(rows, schema(file))
        half = len(table) // 2
        for number, part in enumerate((table[:half], table[half:])):
            write_parquet(out / "rows" / f"{PLAN}-{number:06d}.parquet", part)
        record = {
            "schema_version": 1,
            "plan": PLAN,
            "study": study_file(list(labels)),
            "cases": cases,
            "finished": True,
        }
        record |= {"study_file": str(tmp_path / "study.toml"), "models": {}, "run": {"seed": 0}, "versions": {}}
        (out / "study.json").write_text(json.dumps(record))
        (out / "audit.json").write_text(json.dumps(audit(labels, table, reason)))
        return out

    return write


def interval(low: float, estimate: float, high: float) -> dict[str, float]:
    return {"low": low, "estimate": estimate, "high": high}


def audit(labels: tuple[str, ...], table: pl.DataFrame, reason: str) -> dict[str, Any]:
    """An audit in which the first label relies on the border, and nothing is shown of the others."""
    effect = {
        "stratum": "present",
        "test": "exchange",
        "by": "label",
        "cases": 9,
        "patients": 9,
        "sd": 1.0,
        "sham": 0.0,
    }
    effect |= {"effect": interval(0.4, 0.6, 0.8), "by_fill": {"donor 1": interval(0.3, 0.6, 0.9)}}
    effect |= {"p": 0.001, "p_adjusted": 0.004, "p_equivalence": 0.9, "smallest_delta": 0.77}
    heat = {"cases": 9, "patients": 9, "area": 0.36, "mass": 0.5, "enrichment": interval(0.8, 1.2, 1.9), "peak": 0.5}
    heat |= {"nulls": {"random weights": [0.7, 1.1]}, "frame": None, "content": None}
    test = {"layer": "last", "grid": [5, 7], "gradcam_is_hirescam": 0.0, "completeness": None, "level_lost": 1.0}
    found = {}
    for n, label in enumerate(labels):
        regions = {}
        for region, role in (("center:0.5", "disease"), ("border:0.10", "shortcut")):
            verdict = "RELIES" if n == 0 and role == "shortcut" else "NOT SHOWN"
            regions[region] = {"role": role, "verdict": verdict, "reason": reason, "enrichment": heat["enrichment"]}
            regions[region] |= {"effect": effect, "heat": heat, "effects": [effect], "auc": {}}
        aligned = {"aligned": interval(0.8, 0.9, 1), "absent": interval(0.5, 0.6, 0.7), "anti": interval(0, 0.1, 0.2)}
        aligned |= {"reliance": interval(0.6, 0.8, 0.9), "how": ""}
        found[label] = {"model": "none", "cases": 24, "patients": 12, "auc": interval(0.4, 0.5, 0.6), "forwards": 1}
        found[label] |= {
            "self_test": test | {"empty": 0.0, "cascade": [0.4, 0.1], "sentence": "maps of 5 x 7 cells"},
            "regions": regions,
        }
        found[label] |= {"alignment": {"token": aligned}, "alignment_not_possible": {}, "metadata": {}}
        cases = {str(case): int(case % 2) for case in table["case"].unique().to_list()}
        found[label]["clusters"] = {"number": 2, "stability": 0.9, "reason": "2 clusters", "cases": cases}
    settings = {"delta": 0.1, "replicates": 99, "seed": 0, "level": 0.05, "fewest_patients": 8}
    return {"audit_version": 1, "plan": PLAN, "settings": settings, "forwards": 1, "labels": found}
