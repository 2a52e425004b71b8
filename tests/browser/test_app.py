"""The page of the app, used with mouse, keyboard and on a phone."""

from __future__ import annotations

import contextlib
import io
import json
import re
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from camscope.cohort.fill_ins import FILL_INS
from camscope.cohort.regions import at_input
from camscope.images import Window, decode
from camscope.models.loading import load
from camscope.phantoms.cohort import BUNDLES

pytest.importorskip("uvicorn", reason="needs the extra app")
BUSY = 60_000
HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    several = load("timm:test_resnet", weights="none", classes=4, labels=["cat", "dog", "ox", "hen"], name="animals")
    return {"pneumothorax": load(BUNDLES / "pneumothorax"), "animals": several}


@contextlib.contextmanager
def served(models, **options):
    """The app on a free port, in a thread; yields its address."""
    import uvicorn

    from camscope.app.server import bound, create_app

    listening = bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(models, **options), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address(models):
    with served(models, demo=True) as found:
        yield found


@pytest.fixture
def opened(browser, address, request):
    """The page; fails the test on errors, messages, dialogs and requests to elsewhere."""
    options = getattr(request, "param", {"width": 1280, "scheme": "light"})
    size = {"width": options["width"], "height": 900}
    context = browser.new_context(viewport=size, color_scheme=options["scheme"], accept_downloads=True)
    page, heard = context.new_page(), []
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda one: one.url.startswith((address, "blob:")) or heard.append(one.url))
    page.goto(address)
    page.locator("#model option").first.wait_for(state="attached")
    page.heard = heard
    yield page
    context.close()
    assert not heard


def idle(page):
    from playwright.sync_api import expect

    page.wait_for_timeout(50)
    expect(page.locator("#status")).to_have_text("", timeout=BUSY)


def example(page, model="pneumothorax"):
    page.select_option("#model", model)
    page.click("#example")
    page.locator("#views .viewer-bar:not([hidden])").first.wait_for(timeout=BUSY)
    idle(page)


def brush(page, *, start, end):
    """Paint a stroke, from and to shares of the picture."""
    canvas = page.locator("#brushed canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    side = min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    page.mouse.move(left + start[0] * side, top + start[1] * side)
    page.mouse.down()
    page.mouse.move(left + end[0] * side, top + end[1] * side, steps=10)
    page.mouse.up()


def run(page):
    """Fill the region in; the request and the answer."""
    with page.expect_response("**/api/region") as response:
        page.click("#run")
    page.locator("#effect .said").wait_for(timeout=BUSY)
    return json.loads(response.value.request.post_data), response.value.json()


def test_an_example_is_explained(opened):
    example(opened)
    assert re.match(r"Pneumothorax, \d+\.\d % · gradcam", opened.locator(".view h2").inner_text())
    assert "Pneumothorax" in opened.locator("#classes").inner_text()
    shown = opened.locator("#views canvas").first.evaluate(
        "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, 40).data).size"
    )
    assert shown > 50


@pytest.mark.slow
def test_an_uploaded_file_is_explained_and_its_name_is_text(opened):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save(buffer, "PNG")
    opened.select_option("#model", "animals")
    opened.set_input_files("#file", {"name": HOSTILE, "mimeType": "image/png", "buffer": buffer.getvalue()})
    opened.locator("#views .viewer-bar:not([hidden])").first.wait_for(timeout=BUSY)
    assert opened.locator("#pictures button").inner_text() == HOSTILE
    assert opened.locator("#classes li").count() == 4
    second = opened.locator("#classes button").nth(1)
    name = second.locator("span").first.inner_text()
    with opened.expect_request("**/api/explain") as asked:
        second.click()
    idle(opened)
    assert json.loads(asked.value.post_data)["targets"] == [["cat", "dog", "ox", "hen"].index(name)]
    assert opened.locator(".view h2").inner_text().startswith(name)
    assert second.get_attribute("aria-pressed") == "true"


@pytest.mark.slow
def test_a_dropped_file_that_is_no_picture_says_so(opened):
    opened.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File(["hello"], "note.txt"));
          document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        }"""
    )
    problem = opened.locator("#problem")
    problem.wait_for(timeout=BUSY)
    assert "is not an image" in problem.inner_text()
    assert all("422" in text for text in opened.heard)  # the browser's own line on the answer
    opened.heard.clear()


@pytest.mark.slow
def test_several_maps_methods_layers_and_a_contrast_stand_side_by_side(opened):
    example(opened, "animals")
    opened.click("#add")
    idle(opened)
    opened.select_option("#method", "layercam")
    idle(opened)
    opened.click("#add")
    idle(opened)
    opened.select_option("#class", "1")
    idle(opened)
    opened.select_option("#against", "3")
    idle(opened)
    titles = opened.locator(".view h2 > span:first-child").all_inner_texts()
    assert len(titles) == 3
    assert [title.rpartition(" ")[2] for title in titles] == ["gradcam", "layercam", "layercam"]
    assert titles[2].startswith("dog, not hen, score")
    opened.locator("#layer").select_option(index=1)
    idle(opened)
    first = opened.locator("#layer option").nth(1).inner_text()
    assert f"at {first}," in opened.locator(".view").nth(2).inner_text()
    opened.locator(".view").nth(0).get_by_role("button", name="Close this map").click()
    assert opened.locator(".view").count() == 2


@pytest.mark.slow
def test_the_brushed_region_changes_the_log_odds_as_the_library_says(opened, models, address):
    example(opened)
    opened.click("#tab-test")
    idle(opened)
    assert opened.locator("#run").is_disabled()
    opened.locator("#brush").fill("12")
    brush(opened, start=(0.93, 0.08), end=(0.96, 0.12))  # the letters AP
    asked, answer = run(opened)
    content = opened.request.get(f"{address}api/pictures/{asked['picture']}/pixels").body()
    buffer = io.BytesIO()
    Image.fromarray(np.frombuffer(content, np.uint8).reshape(256, 256)).save(buffer, "PNG")
    model = models["pneumothorax"]
    tensor, window = model.preprocess(decode(buffer.getvalue(), "a.png"))
    mask = np.zeros(256 * 256, bool)
    for start, length in zip(asked["mask"]["runs"][::2], asked["mask"]["runs"][1::2], strict=True):
        mask[start : start + length] = True
    assert isinstance(window, Window)
    region = at_input(mask.reshape(256, 256), window, (128, 128))
    inputs = [tensor.numpy(), FILL_INS["impute"](tensor.numpy(), region, seed=0)]
    with torch.inference_mode():
        before, after = model.log_odds(model.net(torch.from_numpy(np.stack(inputs))).double(), 0).tolist()
    assert answer["before"] == pytest.approx(before, abs=1e-4)
    assert answer["fill_ins"][0]["change"] == pytest.approx(after - before, abs=1e-4)
    assert after - before < -1  # the model was taught this shortcut
    said = opened.locator("#effect").inner_text()
    assert f"lowers the log-odds of Pneumothorax by {before - after:.2f}" in said
    assert "depends on this region more than on other places of its size" in said
    assert opened.locator("#effect svg circle.sham").count() == 40
    opened.click("#clear")
    assert opened.locator("#run").is_disabled()


@pytest.mark.slow
def test_everything_works_with_the_keyboard_alone(opened):
    opened.select_option("#model", "pneumothorax")
    opened.locator("#example").focus()
    opened.keyboard.press("Enter")
    opened.locator("#views .viewer-bar:not([hidden])").first.wait_for(timeout=BUSY)
    idle(opened)
    opened.locator("#tab-ask").focus()
    opened.keyboard.press("ArrowRight")
    idle(opened)
    assert opened.locator("#tab-test").get_attribute("aria-selected") == "true"
    for _ in range(40):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement.matches('#brushed canvas')"):
            break
    for _ in range(5):
        opened.keyboard.press("ArrowUp")
    opened.keyboard.press("Space")
    assert "your region" in opened.locator("#brushed output").inner_text()
    for _ in range(8):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement.id") == "run":
            break
    opened.keyboard.press("Enter")
    opened.locator("#effect .said").wait_for(timeout=BUSY)


@pytest.mark.slow
def test_layers_and_steps_are_shown(opened):
    example(opened)
    opened.click("#tab-layers")
    opened.locator("#stages figure").nth(2).wait_for(timeout=BUSY)
    texts = opened.locator("#stages figcaption").all_inner_texts()
    cells = [int(re.search(r": (\d+) ×", text)[1]) for text in texts]
    assert cells == sorted(cells, reverse=True)
    opened.click("#show-steps")
    image = opened.locator("#steps img")
    image.wait_for(timeout=BUSY)
    idle(opened)
    assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 500


@pytest.mark.slow
def test_a_link_opens_the_same_view(opened, address):
    example(opened, "animals")
    opened.select_option("#class", "2")
    idle(opened)
    opened.select_option("#method", "hirescam")
    idle(opened)
    again = opened.context.new_page()
    again.goto(opened.url)
    again.locator("#views .viewer-bar:not([hidden])").first.wait_for(timeout=BUSY)
    idle(again)
    assert again.locator(".view h2").inner_text() == opened.locator(".view h2").inner_text()
    assert again.locator("#model").input_value() == "animals"
    gone = opened.context.new_page()
    gone.goto(f"{address}#picture={'0' * 24}&name=cat.png")
    gone.locator("#problem").wait_for()
    assert "cat.png that the app no longer has" in gone.locator("#problem").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "beginning"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("zip", b"PK"), ("npy", b"\x93NU")]
)
def test_files_are_saved(opened, kind, beginning):
    example(opened)
    with opened.expect_download() as download:
        opened.click(f"#saves [data-kind={kind}]")
    with open(download.value.path(), "rb") as file:  # noqa: PTH123
        assert file.read(len(beginning)) == beginning
    idle(opened)


VIEWS = [{"width": width, "scheme": scheme} for width in (1280, 390) for scheme in ("light", "dark")]


@pytest.mark.slow
@pytest.mark.parametrize("opened", VIEWS, indirect=True, ids=lambda view: f"{view['width']} {view['scheme']}")
def test_axe_finds_nothing_and_no_tab_is_wider_than_the_screen(opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    width = opened.viewport_size["width"]
    found = axe.run(opened).response["violations"]
    example(opened, "animals")
    opened.click("#add")
    idle(opened)
    for tab in ("ask", "test", "layers"):
        opened.click(f"#tab-{tab}")
        idle(opened)
        if tab == "test":
            brush(opened, start=(0.4, 0.4), end=(0.5, 0.4))
            run(opened)
        if tab == "layers":
            opened.click("#show-steps")
            opened.locator("#steps img").wait_for(timeout=BUSY)
        idle(opened)
        found += axe.run(opened).response["violations"]
        assert opened.evaluate("document.documentElement.scrollWidth") <= width, tab
    assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []


@pytest.fixture(scope="module")
def study_address(tmp_path_factory):
    """The app with a study of twelve patients, on a free port."""
    from camscope.app.study_cases import StudyCases
    from camscope.phantoms.cohort import write_cohort
    from camscope.study.run import run
    from camscope.study.study import Study

    place = tmp_path_factory.mktemp("study")
    study = Study.read(write_cohort(place, patients=10, size=(64, 64)))
    for _ in run(study, place / "results"):
        pass
    with served({}, study=StudyCases(place / "results")) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("opened", VIEWS, indirect=True, ids=lambda view: f"{view['width']} {view['scheme']}")
def test_two_readers_review_a_study(opened, study_address):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page, reader = opened.context.new_page(), f"Ann {opened.viewport_size['width']}"
    page.set_viewport_size(opened.viewport_size)
    page.goto(study_address)
    page.locator("#study-rows tr").first.wait_for(timeout=BUSY)
    idle(page)
    page.locator("#study-filters [name=sort]").select_option("probability")
    idle(page)
    shown = page.locator("#study-rows tr td:nth-child(4)").all_text_contents()
    values = [float(text.split()[0]) for text in shown]
    assert values == sorted(values, reverse=True)
    page.locator("#study-rows button").nth(2).click()
    page.locator("#study-view .viewer-bar:not([hidden])").wait_for(timeout=BUSY)
    case = page.locator("#study-title").inner_text()
    for name, rating in ((reader, "yes"), (f"{reader} again", "yes")):
        page.fill("#review [name=reader]", name)
        page.locator("#review [name=reader]").blur()
        idle(page)
        page.check(f"#review [name=rating][value={rating}]")
        page.check("#review [name=flag]")
        page.click("#review [type=submit]")
        idle(page)
    assert page.locator("#study-rows .done").inner_text().strip() == "flagged"
    assert f"{reader} and {reader} again: 1 rated by both, 100.0 % equal" in page.locator("#agreement").inner_text()
    page.select_option("#study-method", "hirescam")
    idle(page)
    assert "hirescam" in page.locator("#study-view").inner_text()
    found = axe.run(page).response["violations"]
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    with page.expect_download() as download:
        page.click("#study-csv")
    with open(download.value.path(), encoding="utf-8-sig") as file:  # noqa: PTH123
        assert reader in file.read()
    page.click("#study-next")
    idle(page)
    assert page.locator("#study-title").inner_text() != case
    page.click("#study-ask")
    page.locator("#views .viewer-bar:not([hidden])").wait_for(timeout=BUSY)
    assert page.locator(".view h2").inner_text().startswith(page.locator("#study-title").text_content().split(": ")[1])
    page.click("#tab-study")
    idle(page)
    page.check("#study-filters [name=blinded]")
    idle(page)
    cells = page.locator("#study-rows tr td:nth-child(4), #study-rows tr td:nth-child(3)").all_text_contents()
    assert set(cells) == {"hidden"}
    assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []
