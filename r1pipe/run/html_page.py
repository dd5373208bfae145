"""A page in one file: its style, its program and its data stand inside it."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import Any


def filled_page(package: str, name: str, title: str, data: Any) -> str:
    """NAME.html of a package, with NAME.css, NAME.js and the data in it."""
    here = files(package)
    text = here.joinpath(f"{name}.html").read_text(encoding="utf8")
    # Marks that neither CSS nor JavaScript nor a title holds.
    parts = {
        "@TITLE@": escape(title),
        "@STYLE@": here.joinpath(f"{name}.css").read_text(encoding="utf8"),
        "@PROGRAM@": here.joinpath(f"{name}.js").read_text(encoding="utf8"),
        # The last one, since a sample may hold any mark.
        "@DATA@": in_html(data),
    }
    for mark, part in parts.items():
        assert text.count(mark) == 1, mark
        text = text.replace(mark, part)
    return text


def in_html(data: Any) -> str:
    r"""JSON that can stand within <script>: a sample that holds </script> would end the page.

    >>> in_html("</script>")
    '"\\u003c/script>"'
    """
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
