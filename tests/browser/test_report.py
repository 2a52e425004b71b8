from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest
import torch

from camscope.files import MARKER
from camscope.heatmap import place
from camscope.images import Window
from camscope.render import colourise, scale
from camscope.report import report
from camscope.report.choice import MOST

HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;</script><script>alert(2)</script>$x^2$"


@pytest.fixture(scope="module")
def folder(write_study):
    out = write_study()
    report(out)
    return out


@pytest.fixture(scope="module")
def rows(folder):
    return pl.read_parquet(folder / "rows" / "*.parquet")


@pytest.fixture
def opened(page, folder):
    page.goto((folder / "report.html").as_uri())
    page.locator("[data-preset=everything]").click()
    return page


def chosen(page):
    return int(page.locator("#count").inner_text().split()[0])


def shown(page):
    """The rows on the cards, in order."""
    return [int(value) for value in page.locator(".card").evaluate_all("cards => cards.map(c => c.dataset.row)")]


def pixels(page, selector):
    """A canvas as (height, width, 4) bytes."""
    got = page.locator(selector).first.evaluate(
        """canvas => {
          const copy = Object.assign(document.createElement("canvas"), {width: canvas.width, height: canvas.height});
          const context = copy.getContext("2d", {willReadFrequently: true});
          context.drawImage(canvas, 0, 0);
          return [copy.height, copy.width, ...context.getImageData(0, 0, copy.width, copy.height).data];
        }"""
    )
    return np.array(got[2:], np.uint8).reshape(got[0], got[1], 4)


def test_the_first_screen_has_the_answer_of_each_label(opened):
    first = opened.locator("#answer")
    assert first.locator("article").count() == 2
    assert "Relies on a shortcut: border, outer 10 %" in first.locator("article").first.inner_text()
    assert "Neither the disease region nor a shortcut is shown" in first.locator("article").last.inner_text()
    assert "NOT SHOWN does not mean that there is no effect" in first.inner_text()
    assert "not a diagnostic device" in first.inner_text()
    assert first.locator("article img").evaluate_all("all => all.every(i => i.complete && i.naturalWidth > 0)")


def test_each_filter_keeps_the_rows_that_the_table_has(opened, rows):
    wanted = {
        ("#f-label", "0"): pl.col("label") == "Effusion",
        ("#f-group", "PA"): pl.col("group") == "PA",
        ("#f-outcome", "FN"): pl.col("outcome") == "FN",
        ("#f-status", "failed"): pl.col("status") == "failed",
        ("#f-peak", "0"): pl.col("peak:center:0.5"),
        ("#f-verdict", "RELIES border:0.10"): pl.col("label") == "Effusion",
    }
    for (control, value), condition in wanted.items():
        opened.locator("[data-preset=everything]").click()
        assert chosen(opened) == len(rows)
        opened.locator(control).select_option(value)
        assert 0 < chosen(opened) == len(rows.filter(condition)) < len(rows)
    opened.locator("[data-preset=everything]").click()
    opened.locator("#f-text").fill("pat-003")
    assert chosen(opened) == len(rows.filter(pl.col("patient") == "PAT-003")) > 0
    opened.locator("[data-preset=everything]").click()
    opened.locator("#f-low").fill("0.25")
    opened.locator("#f-high").fill("0.75")
    assert chosen(opened) == len(rows.filter(pl.col("probability").is_between(0.25, 0.75))) > 0


def test_each_order_is_that_of_the_numbers(opened, rows):
    numbered = rows.with_row_index("row").with_columns(
        surprise=(pl.col("truth").cast(pl.Float64) - pl.col("probability")).abs()
    )
    orders = {"score": "score", "probability": "probability", "surprise": "surprise", "mass 1": "mass:border:0.10"}
    for value, column in orders.items():
        for order in ("down", "up"):
            opened.locator("#s-by").select_option(value)
            opened.locator("#s-order").select_option(order)
            expected = numbered.sort(column, descending=order == "down", nulls_last=True)["row"].to_list()
            assert shown(opened) == expected[: len(shown(opened))]


def test_random_is_all_of_them_in_another_order(opened, rows):
    opened.locator("#s-by").select_option("random")
    found = []
    while True:
        found += shown(opened)
        if opened.locator("#p-on").is_disabled():
            break
        opened.locator("#p-on").click()
    assert sorted(found) == list(range(len(rows)))
    assert found != sorted(found)


def test_pages_have_every_row_once(opened, rows):
    found = shown(opened)
    while opened.locator("#p-on").is_enabled():
        opened.locator("#p-on").click()
        found += shown(opened)
    assert found == list(range(len(rows)))


def test_maps_are_placed_and_coloured_as_overlays_are(opened, rows):
    row = rows.row(0, named=True)
    window = Window((row["height"], row["width"]), tuple(row["window"][:2]), tuple(row["window"][2:]))
    grid = torch.tensor(row["grid"]).reshape(row["grid_height"], row["grid_width"])
    heatmap, seen = place(grid.relu(), window).numpy(), window.visible()
    drawn = pixels(opened, ".card canvas")
    assert drawn.shape[:2] == (row["height"], row["width"])
    inside = np.zeros(heatmap.shape, bool)
    inside[seen] = True
    assert ((drawn[..., 3] == 255) == inside).all()
    values = scale(heatmap[seen], "minmax")[0]
    expected = colourise(values).astype(int)
    # A step of one level of 256 where rounding differs.
    levels = np.abs(np.diff(colourise(np.linspace(0, 1, 256)[None])[0].astype(int), axis=0)).max()
    assert np.abs(drawn[seen][..., :3] - expected).max() <= levels

    opened.locator("#d-scale").select_option("common")
    highest = rows.filter(pl.col("label") == row["label"])["map_max"].max()
    expected = colourise(np.clip(heatmap[seen] / highest, 0, 1)).astype(int)
    assert np.abs(pixels(opened, ".card canvas")[seen][..., :3] - expected).max() <= levels


def test_sliders_and_colours_change_what_is_drawn(opened):
    opened.locator("#d-opacity").fill("0.2")
    assert opened.locator(".card canvas").first.evaluate("c => c.style.opacity") == "0.2"
    before = pixels(opened, ".card canvas")
    opened.locator("#d-threshold").fill("0.5")
    after = pixels(opened, ".card canvas")
    assert 0 < (after[..., 3] == 255).sum() < (before[..., 3] == 255).sum()
    opened.locator("#d-threshold").fill("0")
    opened.locator("#d-colours").select_option("gray")
    grey = pixels(opened, ".card canvas")
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 1] == grey[..., 2]).all()


def test_a_case_shows_the_numbers_of_its_row(opened, rows):
    opened.locator(".card").first.click()
    row = rows.row(0, named=True)
    text = opened.locator("#one").inner_text().replace("\N{MINUS SIGN}", "-")
    said = dict(line.split("\t") for line in text.splitlines() if "\t" in line)
    assert said["Patient"] == row["patient"]
    assert said["Truth"] == "present"
    assert float(said["Logit"]) == pytest.approx(row["score"], abs=6e-5)
    assert float(said["Probability"]) == pytest.approx(row["probability"], abs=6e-5)
    assert float(said["Heat in border, outer 10 %"].split(",")[0]) == pytest.approx(row["mass:border:0.10"], abs=6e-5)
    assert said["Note"] == "a note"


def test_keys_lead_from_case_to_case_and_links_lead_back(opened, browser, folder):
    opened.locator(".card").first.focus()
    opened.keyboard.press("Enter")
    titles = [opened.locator("#one-title").inner_text()]
    for _ in range(30):
        opened.keyboard.press("ArrowRight")
        titles.append(opened.locator("#one-title").inner_text())
    assert len(set(titles)) == 31
    opened.keyboard.press("ArrowLeft")
    assert opened.locator("#one-title").inner_text() == titles[-2]
    link = opened.locator("#o-link").get_attribute("href")
    assert link.startswith("#case-")
    opened.keyboard.press("Escape")
    assert not opened.locator("#one").is_visible()
    other = browser.new_page()
    other.goto((folder / "report.html").as_uri() + link)
    title = other.locator("#one-title").inner_text()
    assert title.split(" (")[0] == titles[-2].split(" (")[0]
    other.close()


def test_failures_are_cards_with_their_reason(opened, rows):
    opened.locator("[data-preset=failed]").click()
    assert len(shown(opened)) == len(rows.filter(pl.col("status") == "failed")) > 0
    assert all("there is no file" in text for text in opened.locator(".card .reason").all_inner_texts())


def test_numbers_of_the_sections_are_those_of_the_rows(opened, rows):
    counts = dict(
        zip(opened.locator(".counts dt").all_inner_texts(), opened.locator(".counts dd").all_inner_texts(), strict=True)
    )
    assert counts["patients"] == str(rows["patient"].n_unique())
    assert counts["images"] == str(rows["case"].n_unique())
    assert counts["maps"] == str(len(rows.filter(pl.col("status") == "ok")))
    assert counts["rows failed"] == str(len(rows.filter(pl.col("status") == "failed")))
    cells = opened.locator("#cohort tbody tr").first.locator("td").all_inner_texts()
    first = rows.filter(pl.col("label") == "Effusion")
    present = first.filter(pl.col("truth"))
    assert cells[0] == f"{len(present)} ({present['patient'].n_unique()})"
    assert cells[3] == f"{len(p := present.filter(group='AP'))} ({p['patient'].n_unique()})"


def test_markup_in_names_is_text(page, write_study):
    out = write_study(
        labels=(HOSTILE, "Nodule\x00\x1b"),
        patient=lambda n: f"{HOSTILE}{n // 2}",
        view=lambda n: HOSTILE + "AP" if n % 3 else "PA\u2028`${1}`",
        message=HOSTILE,
        reason=HOSTILE,
    )
    report(out)
    page.goto((out / "report.html").as_uri())
    assert page.locator("script").count() == 2
    assert page.locator("img[src=x]").count() == 0
    assert page.locator(".answer h2").first.inner_text().startswith(HOSTILE)
    assert page.locator("svg text", has_text="<img src=x").count() > 0
    page.locator("[data-preset=failed]").click()
    assert page.locator(".card .reason").first.inner_text() == HOSTILE
    page.locator("[data-preset=everything]").click()
    page.locator(".card").first.click()
    assert HOSTILE in page.locator("#one").inner_text()
    link = page.locator("#o-link").get_attribute("href")
    page.goto((out / "report.html").as_uri() + link)
    assert HOSTILE in page.locator("#one-title").inner_text()


def test_nothing_may_be_fetched(browser, folder):
    page = browser.new_page()
    page.goto((folder / "report.html").as_uri())
    blocked = page.evaluate(
        """async () => {
          const refused = [];
          document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
          try { await fetch("https://example.org/"); } catch { }
          const image = document.createElement("img");
          image.src = "https://example.org/a.png";
          document.body.append(image);
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
          await new Promise((done) => setTimeout(done, 200));
          return [refused, window.ran === true];
        }"""
    )
    assert {"connect-src", "img-src"} <= set(blocked[0])
    assert any(directive.startswith("script-src") for directive in blocked[0])
    assert not blocked[1]
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_no_serious_finding_of_axe(browser, folder, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.goto((folder / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = axe.run(page).response["violations"]
    page.locator(".card").first.click()
    found += axe.run(page, context="#one").response["violations"]
    page.close()
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_the_page_is_no_wider_than_the_screen(opened, width):
    opened.set_viewport_size({"width": width, "height": 844})
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.locator(".card").first.click()
    assert opened.locator("#one").evaluate("d => d.scrollWidth <= d.clientWidth")


def test_the_printed_page_has_the_cases_without_the_controls(opened):
    opened.emulate_media(media="print")
    assert not opened.locator(".controls").is_visible()
    assert not opened.locator(".top").is_visible()
    assert opened.locator(".card").first.is_visible()
    assert opened.pdf().startswith(b"%PDF")


def test_pictures_of_large_cohorts_lie_beside_the_page(page, write_study):
    out = write_study()
    report(out, inside=3)
    text = (out / "report.html").read_text()
    beside = {path.name for path in (out / "report_files").iterdir()} - {MARKER}  # the list of the images of ours
    assert len(beside) == len(set(re.findall(r"report_files/\w+\.jpg", text))) > 3
    page.goto((out / "report.html").as_uri())
    page.wait_for_function("[...document.querySelectorAll('.card img')].every(i => i.complete)")
    assert page.locator(".card img").evaluate_all("all => all.length > 0 && all.every(i => i.naturalWidth === 90)")


def test_pseudonyms_leave_no_name_on_the_page(page, write_study):
    out = write_study(message="there is no file '/data/PAT-005/scan.png'")
    report(out, pseudonyms=True)
    content = (out / "report.html").read_bytes()
    for word in (b"PAT-0", b"images/0", b"/data/", str(out.parent).encode(), b"study.toml"):
        assert word not in content
    page.goto((out / "report.html").as_uri())
    page.locator("[data-preset=everything]").click()
    page.locator("#f-text").fill("P3")
    assert page.locator(".card").count() == 4
    assert "image 5" in page.locator(".card").first.inner_text()


@pytest.mark.slow
def test_20000_rows_stay_usable(page, write_study):
    out = write_study(cases=10_000, pictures=False, patient=lambda n: f"PAT-{n // 4:05}")
    report(out)
    assert (out / "report.html").stat().st_size < 20_000_000
    page.goto((out / "report.html").as_uri())
    assert page.locator(".card").count() == 24
    # What the page holds does not grow with the rows.
    assert page.evaluate("document.querySelectorAll('*').length") < 8000
    page.locator("[data-preset=surprise]").click()
    rows = pl.read_parquet(out / "rows" / "*.parquet")
    assert chosen(page) == 2 * MOST < len(rows) == 20_000
    assert f"{MOST:,} of 10,000 cases are shown" in page.locator("body").inner_text()
    page.locator("#f-outcome").select_option("FP")
    assert 100 < chosen(page) <= len(rows.filter(outcome="FP"))
    for _ in range(3):
        page.locator("#p-on").click()
    assert page.locator("#p-where").inner_text() == "73 to 96"
    assert page.locator(".card").count() == 24
