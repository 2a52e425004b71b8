"""Shell of a one-file page that loads nothing: content policy, style, script, templates."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from camscope.page.words import interval, number, p_value

_HERE = "camscope.page"


def rendered(template: str, content: Mapping[str, Any], *, package: str, script: str = "") -> str:
    """Return a page's text; its style and script are allowed by their hashes alone.

    Args:
        template: name of the page's template, in the folder ``templates`` of the package; it may use
            ``figure.html.j2`` and the variables ``policy``, ``style`` and ``script``.
        content: what else the template shows.
        package: whose templates they are.
        script: the page's script.

    Returns:
        HTML; all texts are escaped.
    """
    style = importlib.resources.files(_HERE).joinpath("templates/style.css").read_text("utf-8")
    allowed = f"script-src '{_hash(script)}'; " if script else ""
    policy = (
        f"default-src 'none'; img-src data: 'self' file:; style-src '{_hash(style)}'; {allowed}"
        "base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader(_HERE)]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"interval": interval, "number": number, "p_value": p_value, "fields": vars}
    shell = {"policy": policy, "style": Markup(style), "script": Markup(script)}
    return environment.get_template(template).render(**content, **shell)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def script_json(content: Any) -> str:
    r"""Return JSON that is safe inside a ``<script>`` element: no ``<``, ``>``, ``&``, and nothing but ASCII.

    >>> script_json({"a": "</script>"})
    '{"a":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
