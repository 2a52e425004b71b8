from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from camscope.page.svg import SETTINGS, svg

HOSTILE = "<script>alert(1)</script> $\\frac$ \"'& \x00\x1b 漢"


def drawn(title):
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(3, 2), layout="constrained")
        ax = figure.add_subplot()
        ax.plot([0, 1], [0, 1], "o-", clip_on=True)
        ax.bar([0], [1], hatch="//")
        ax.imshow(np.zeros((2, 2)))
        ax.set_title(title)
    return svg(figure, "one", text=title)


def test_texts_are_text():
    root = ET.fromstring(drawn(HOSTILE))
    clean = HOSTILE.replace("\x00", "").replace("\x1b", "")
    said = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert " ".join(clean.split()) in [" ".join(text.split()) for text in said]
    assert root.find(".//{http://www.w3.org/2000/svg}script") is None


def test_there_are_no_styles_and_all_references_lead_somewhere():
    text = drawn("a title")
    assert not re.search(r"<style|\sstyle=|<metadata", text)
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert ids
    assert all(name.startswith("one-") for name in ids)
    referred = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
    assert referred
    assert {a or b for a, b in referred} <= set(ids)


def test_colours_and_sizes_are_kept():
    root = ET.fromstring(drawn("a title"))
    texts = root.findall(".//{http://www.w3.org/2000/svg}text")
    assert all(float(element.get("font-size", "0").removesuffix("px")) > 5 for element in texts)
    assert root.find(".//*[@stroke='#1f77b4']") is not None
