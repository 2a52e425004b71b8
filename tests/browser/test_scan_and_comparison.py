"""The pages of a scan and of a comparison of two studies, in a browser."""

import shutil

import numpy as np
import pytest
from PIL import Image

from camscope.audit.audit import audit
from camscope.study.run import run
from camscope.study.study import Study
from camscope.study_comparison import compare_studies
from running import inside

pytestmark = pytest.mark.slow

HOSTILE = "a<img src=x onerror=alert(1)>&amp;"


@pytest.fixture(scope="module")
def kept():
    """The pages that have been written once."""
    return {}


@pytest.fixture
def pages(kept, make_study, make_bundle, tmp_path, tmp_path_factory):
    """The page of a scan with a name that is markup, and that of a comparison with audits."""
    if kept:
        return kept
    folder = tmp_path / "images"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for n in range(14):
        Image.fromarray(draw.integers(80, 160, (48, 48), np.uint8)).save(folder / f"{n:02}.png")
    Image.new("L", (48, 48), 30).save(folder / f"{HOSTILE}.png")
    shutil.copy(folder / "03.png", folder / f"{'long_' * 30}.png")
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    place = tmp_path_factory.mktemp("pages")
    inside("scan", folder, "--model", make_bundle("Effusion"), "--out", place / "scan", "--device", "cpu")
    outs = []
    for name, seed in (("a", 0), ("b", 1)):
        file = make_study(40, folder=name, explain='when = "all"', effusion=make_bundle("Effusion", seed))
        file.write_text(f"{file.read_text(encoding='utf-8')}replicates = 99\n", encoding="utf-8")
        outs.append(file.parent / "out")
        list(run(Study.read(file), outs[-1], device="cpu"))
        audit(Study.read(file), outs[-1], device="cpu")
    kept |= {"scan": place / "scan/scan.html", "comparison": compare_studies(*outs, out=place).page}
    return kept


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["scan", "comparison"])
def test_no_serious_finding_of_axe_and_no_wider_than_the_screen(page, pages, name, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(pages[name].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = axe.run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_odd_images_of_a_scan_are_seen(page, pages):
    page.goto(pages["scan"].as_uri())
    rows = page.locator("tbody tr")
    assert rows.count() >= 4
    assert rows.filter(has_text=HOSTILE).count() == 1
    assert page.locator("tbody img").evaluate_all("all => all.every(i => i.complete && i.naturalWidth > 0)")
    assert page.get_by_text("1 file of the folder is left out").is_visible()


def test_the_answer_of_each_label_is_on_the_first_screen_of_a_comparison(page, pages):
    page.goto(pages["comparison"].as_uri())
    answer = page.locator("#answer")
    assert "There is no difference: every score and effect is equal." in answer.inner_text()
    for link in page.locator("nav a").all():
        link.click()
        assert page.evaluate("document.querySelector(location.hash) !== null")
