"""The viewer as a widget of notebooks."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from functools import cache
from typing import Any

from camscope.errors import SettingError, require
from camscope.explanation import Explanation
from camscope.viewer.assets import COLOURS, colour_tables, module, style
from camscope.viewer.data import grid_data, shown_facts, shown_pixels

_LONGEST = 800
_MOST = 60


def view(explanations: Explanation | Iterable[Explanation]) -> Any:
    """Return a widget of a notebook that shows maps side by side: opacity, threshold, zoom, colours, raw values.

    Needs the extra ``notebook`` (anywidget); works in Jupyter, VS Code, Colab and marimo.

    Args:
        explanations: one, or up to 60 of the same or of different images.

    Returns:
        The widget; as the last expression of a cell it is shown.

    Raises:
        MissingExtraError: anywidget is not installed.
        SettingError: something else than explanations, none, or more than 60.

    >>> import camscope as cs
    >>> view(cs.explain_all("timm:resnet18", ["cat.jpg"], methods=["gradcam", "layercam"]))  # doctest: +SKIP
    """
    if isinstance(explanations, Explanation):
        explanations = [explanations]
    several = list(explanations) if isinstance(explanations, Iterable) else []
    if not several or len(several) > _MOST or not all(isinstance(e, Explanation) for e in several):
        raise SettingError(f"view() takes one to {_MOST} explanations, such as list(cs.explain_all(...))")
    pictures: dict[int, int] = {}
    for e in several:
        pictures.setdefault(id(e.picture), len(pictures))
    by_number = {pictures[id(e.picture)]: e.picture for e in several}
    data = {
        "tables": colour_tables(),
        "names": COLOURS,
        "pictures": [_picture(shown_pixels(by_number[n], longest=_LONGEST)) for n in range(len(by_number))],
        "maps": [_map(e.cpu(), pictures[id(e.picture)]) for e in several],
    }
    return _widget()(data=data)


def _picture(shown: Any) -> dict[str, Any]:
    content = shown.astype(shown.dtype.newbyteorder("<")).tobytes()
    return {**shown_facts(shown), "pixels": base64.b64encode(content).decode()}


def _map(e: Explanation, picture: int) -> dict[str, Any]:
    return {
        "picture": picture,
        "full": list(e.picture.size),
        "title": f"{e.label}, {e.certainty}",
        "unit": f"{e.method} at {e.layer}, raw values",
        "notes": list(e.remarks),
        "window": e.window.to_dict(),
        "grid": grid_data(e),
    }


@cache
def _widget() -> type[Any]:
    """Return the class of the widget; it is made when it is first needed, since anywidget is optional."""
    anywidget = require("anywidget", "the viewer in notebooks", "notebook")
    traitlets = require("traitlets", "the viewer in notebooks", "notebook")

    class MapsWidget(anywidget.AnyWidget):  # type: ignore[misc, name-defined]
        _esm = module(["heat", "picture", "viewer", "controls", "widget"])
        _css = style()
        data = traitlets.Dict().tag(sync=True)

    return MapsWidget
