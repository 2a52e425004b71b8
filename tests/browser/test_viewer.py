"""The viewer on a page that holds its module, its colours and one picture with one map."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from camscope import viewer
from camscope.heatmap import place
from camscope.images import Picture, Window
from camscope.page.shell import script_json
from camscope.render import overlay, scale

GRID = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
PIXELS = np.random.default_rng(2).integers(0, 255, (60, 90), np.uint8)
WINDOW = Window((60, 90), (6.0, -3.0), (48.0, 96.0))

START = """
const data = JSON.parse(document.getElementById("data").textContent);
const tables = Object.fromEntries(Object.entries(data.tables).map(([name, table]) => [name, bytes(table)]));
const look = new Look(), one = new Viewer(document.getElementById("one"), look, tables, { label: "Chest" });
const picture = { width: data.width, height: data.height, channels: 1, pixels: bytes(data.pixels) };
one.setPicture(picture);
one.setMap({ values: floats(data.grid), height: 4, width: 6, window: data.window, unit: "gradcam" });
const options = { tools: ["move", "window", "brush", "hot"], picture: () => picture };
controls(document.getElementById("controls"), look, data.names, options);
Object.assign(window, { look, one, place, limits, paint, unrun });
"""


@pytest.fixture
def shown(page, tmp_path):
    coded = {"grid": GRID, "pixels": PIXELS}
    data = {name: base64.b64encode(array.tobytes()).decode() for name, array in coded.items()}
    data |= {"tables": viewer.colour_tables(), "names": viewer.COLOURS, "window": WINDOW.to_dict()}
    data |= {"width": 90, "height": 60}
    html = f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>viewer</title>
    <style>{viewer.style()}</style></head><body>
    <main><h1>Viewer</h1><div id="controls"></div><div id="one"></div></main>
    <script type="application/json" id="data">{script_json(data)}</script>
    <script type="module">{viewer.module()}{START}</script></body></html>"""
    path = tmp_path / "viewer.html"
    path.write_text(html, encoding="utf-8")
    page.goto(path.as_uri())
    page.wait_for_function("window.one")
    return page


def colour_at(page, x, y):
    """The colour of the canvas at a place of the picture."""
    return page.evaluate(
        """([x, y]) => {
          const { factor, x: left, y: top } = one.frame(one.panes()[0]);
          const at = [left + (x + 0.5) * factor, top + (y + 0.5) * factor].map(Math.round);
          const copy = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
          const context = copy.getContext("2d", {willReadFrequently: true});
          context.drawImage(one.canvas, -at[0], -at[1]);
          return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
        }""",
        [x, y],
    )


def test_the_map_has_the_colours_that_the_package_draws(shown):
    import torch

    heat = place(torch.from_numpy(GRID).relu(), WINDOW).numpy()
    values = np.zeros_like(heat)
    values[WINDOW.visible()] = scale(heat[WINDOW.visible()], "minmax")[0]
    expected = np.asarray(overlay(Picture(PIXELS[..., None] / np.float32(255)), values, opacity=0.6, window=WINDOW))
    shown.evaluate("look.set({fade: false})")
    for x, y in ((40, 30), (10, 20), (80, 50), (45, 2)):
        assert np.abs(np.array(colour_at(shown, x, y), int) - expected[y, x]).max() <= 9


@pytest.mark.slow
def test_a_signed_map_has_white_at_zero_and_equal_ends(shown):
    shown.evaluate("look.set({colours: 'RdBu_r', mode: 'map', fade: false})")
    low, high = shown.evaluate("[one.limits[0], one.limits[1]]")
    assert low == -high
    assert high == pytest.approx(np.abs(one_placed()).max(), rel=1e-4)


def one_placed():
    import torch

    return place(torch.from_numpy(GRID), WINDOW).numpy()[WINDOW.visible()]


@pytest.mark.slow
def test_the_threshold_and_the_opacity_hide_the_map(shown):
    shown.evaluate("look.set({opacity: 0})")
    assert colour_at(shown, 40, 30) == [PIXELS[30, 40]] * 3
    shown.evaluate("look.set({opacity: 1, threshold: 1})")
    assert colour_at(shown, 40, 30) == [PIXELS[30, 40]] * 3
    shown.evaluate("look.set({threshold: 0, fade: false})")
    assert colour_at(shown, 40, 30) != [PIXELS[30, 40]] * 3


@pytest.mark.slow
def test_the_window_of_tones_changes_and_inverts_the_picture(shown):
    shown.evaluate("look.set({mode: 'picture'})")
    before = colour_at(shown, 20, 30)
    shown.locator("[data-name=tones]").select_option("inverted")
    assert colour_at(shown, 20, 30) == [255 - v for v in before]
    shown.locator("[data-name=tones]").select_option("usual")
    low, high = shown.evaluate("[look.low, look.high]")
    assert 0 < low < 0.05 < 0.95 < high < 1
    box = shown.locator("#one canvas").first.bounding_box()
    shown.locator("[data-tool=window]").click()
    shown.mouse.move(box["x"] + 100, box["y"] + 100)
    shown.mouse.down()
    shown.mouse.move(box["x"] + 160, box["y"] + 130)
    shown.mouse.up()
    assert shown.evaluate("look.high - look.low") == pytest.approx(high - low + 60 / 400, abs=0.02)


@pytest.mark.slow
def test_keys_zoom_pan_read_and_change(shown):
    shown.locator("#one canvas").first.focus()
    shown.keyboard.press("+")
    assert shown.evaluate("look.zoom") == 1.25
    shown.keyboard.press("Shift+ArrowRight")
    assert shown.evaluate("look.x") > 0.5
    shown.keyboard.press("0")
    assert shown.evaluate("[look.zoom, look.x]") == [1, 0.5]
    shown.keyboard.press("ArrowRight")
    reading = shown.locator("#one output").inner_text()
    x, y = (int(part.split()[1]) for part in reading.split(" · ")[0].split(", "))
    heat = float(reading.split("map ")[1].replace("\u2212", "-"))
    import torch

    assert heat == pytest.approx(float(place(torch.from_numpy(GRID).relu(), WINDOW)[y, x]), rel=0.01)
    for key, name in (("o", "opacity"), ("y", "threshold"), ("c", "colours"), ("m", "mode")):
        before = shown.evaluate(f"look.{name}")
        shown.keyboard.press(key)
        assert shown.evaluate(f"look.{name}") != before
    assert shown.locator("[data-name=mode]").input_value() == "side"


@pytest.mark.slow
def test_the_brush_paints_with_the_pointer_and_with_the_keyboard(shown):
    shown.locator("[data-tool=brush]").click()
    canvas = shown.locator("#one canvas").first
    canvas.focus()
    shown.keyboard.press("Space")
    runs = shown.evaluate("one.maskRuns()")
    assert (runs["height"], runs["width"]) == (60, 90)
    first = sum(runs["runs"][1::2])
    assert first == pytest.approx(np.pi * (6 / 200 * 90) ** 2, rel=0.2)
    box = canvas.bounding_box()
    shown.mouse.move(box["x"] + 50, box["y"] + 50)
    shown.mouse.down()
    shown.mouse.move(box["x"] + 200, box["y"] + 50, steps=20)
    shown.mouse.up()
    assert sum(shown.evaluate("one.maskRuns()")["runs"][1::2]) > 2 * first
    assert shown.evaluate("unrun(one.maskRuns().runs, 5400).join() === one.mask.join()")


@pytest.mark.slow
def test_the_hot_area_is_the_connected_part_above_half_of_the_maximum(shown):
    import torch

    heat = place(torch.from_numpy(GRID).relu(), WINDOW).numpy()
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    shown.evaluate("([x, y]) => { look.set({tool: 'hot'}); one.use({x: x + 0.5, y: y + 0.5}); }", [int(x), int(y)])
    from scipy import ndimage

    parts, _ = ndimage.label(heat >= heat.max() / 2)
    runs = shown.evaluate("one.maskRuns().runs")
    assert sum(runs[1::2]) == pytest.approx(int((parts == parts[y, x]).sum()), abs=2)


@pytest.mark.slow
def test_two_fingers_zoom(shown):
    shown.evaluate(
        """() => {
          const send = (type, id, x, y) => one.canvas.dispatchEvent(
            new PointerEvent(type, {pointerId: id, clientX: x, clientY: y, bubbles: true, button: 0}));
          one.canvas.setPointerCapture = () => {};
          send("pointerdown", 1, 200, 200); send("pointerdown", 2, 300, 200);
          send("pointermove", 2, 310, 200); send("pointermove", 2, 420, 200);
        }"""
    )
    assert shown.evaluate("look.zoom") == pytest.approx(2, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_the_page_fits(shown, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    shown.set_viewport_size({"width": width, "height": 844})
    found = axe.run(shown).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_the_widget_of_notebooks_draws_its_maps(page, tmp_path):
    from camscope.explanation import explain_all
    from camscope.models.loading import load
    from camscope.viewer.widget import view

    pytest.importorskip("anywidget", reason="needs the extra notebook")
    model = load("timm:test_resnet", weights="none")
    shown = view(explain_all(model, [PIXELS], methods=["gradcam", "layercam"]))
    start = """
    const data = JSON.parse(document.getElementById("data").textContent);
    window.closing = [render({ model: { get: () => data }, el: document.getElementById("cell") })];"""
    html = f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>widget</title>
    <style>{viewer.style()}</style></head><body><main><h1>Notebook</h1><div id="cell"></div></main>
    <script type="application/json" id="data">{script_json(shown.data)}</script>
    <script type="module">{shown._esm}{start}</script></body></html>"""
    path = tmp_path / "widget.html"
    path.write_text(html, encoding="utf-8")
    page.goto(path.as_uri())
    page.wait_for_function("window.closing")
    assert page.locator(".viewer").count() == 2
    units = page.locator(".viewer-bar .unit").all_inner_texts()
    assert [text.split()[0] for text in units] == ["gradcam", "layercam"]
    page.locator("[data-name=mode]").select_option("side")
    page.wait_for_timeout(100)
    wide = page.locator("#cell .viewer-stage canvas").first.evaluate("c => c.width / c.height")
    assert wide > 2
    page.evaluate("window.closing[0]()")
