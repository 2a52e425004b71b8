"""The reports of the demo and of a study of real radiographs, opened and used."""

import os
import runpy
import sys
from pathlib import Path

import polars as pl
import pytest

from camscope.demo.tour import tour
from camscope.report import report
from camscope.study.run import run
from camscope.study.study import Study

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("CAMSCOPE_TEST_DATA", ROOT.parent / "shared/data"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return tour(tmp_path_factory.mktemp("demo"), patients=30).results


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Twenty real images, without an audit."""
    if not DATA.is_dir():
        pytest.skip("no test data: set CAMSCOPE_TEST_DATA to their folder")
    place = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAMSCOPE_TEST_DATA", str(DATA))
        patch.setattr(sys, "argv", ["real.py", str(place)])
        runpy.run_path(str(ROOT / "benchmarks/audit/real.py"), run_name="__main__")
    lines = (place / "cohort.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (place / "cohort.csv").write_text("".join(lines[:11] + lines[-10:]), encoding="utf-8")
    text = (place / "study.toml").read_text(encoding="utf-8").partition("[audit]")[0]
    (place / "study.toml").write_text(text, encoding="utf-8")
    study = Study.read(place / "study.toml")
    for _ in run(study, place / "results"):
        pass
    report(place / "results", study=study)
    return place / "results"


@pytest.mark.parametrize("which", ["demo", "real"])
def test_the_page_shows_the_rows_and_answers_to_its_controls(request, page, which):
    folder = request.getfixturevalue(which)
    rows = pl.read_parquet(folder / "rows" / "*.parquet")
    page.goto((folder / "report.html").as_uri())
    text = page.locator("body").inner_text()
    assert "not a diagnostic device" in text
    for label in rows["label"].unique():
        assert label in text
    if which == "real":
        assert "heat maps alone cannot show" in text.lower()
    page.locator("[data-preset=everything]").click()

    def chosen():
        return int(page.locator("#count").inner_text().split()[0])

    assert chosen() == len(rows)
    page.locator("#f-label").select_option("0")
    first = rows["label"][0]
    assert chosen() == (rows["label"] == first).sum()
    page.locator("[data-preset=everything]").click()
    page.locator("#f-group").select_option("AP")
    assert chosen() == (rows["group"] == "AP").sum() > 0
    page.locator("#f-outcome").select_option("TP")
    assert chosen() == ((rows["group"] == "AP") & (rows["outcome"] == "TP")).sum() > 0
    canvas = page.locator(".card canvas").first
    before = canvas.screenshot()
    page.locator("#d-opacity").fill("1")
    assert canvas.screenshot() != before
