"""Pages in headless Chromium: what they do wrong, whom they ask, and barriers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
AXE = Path(os.environ.get("AXE_CORE", "axe.min.js"))
# In a page it would take it over, or end it.
EVIL = "</script><img src=x onerror=\"document.title='taken'\"><!--"

IN_A_BROWSER = pytest.mark.skipif(
    not CHROMIUM.is_file() or importlib.util.find_spec("playwright") is None,
    reason="the page is looked at with playwright (PyPI) and /usr/bin/chromium, and one of them is missing",
)
WITH_AXE = pytest.mark.skipif(not AXE.is_file(), reason="AXE_CORE names no axe.min.js (npm pack axe-core)")


@dataclass
class Browser:
    """A tab, what its console and its program complained of, and the addresses that it asked for."""

    tab: Any
    troubles: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def barriers(self) -> list[tuple[str, str]]:
        """What axe finds: rule and impact."""
        self.tab.evaluate(AXE.read_text())
        found = self.tab.evaluate("axe.run()")
        return [(rule["id"], rule["impact"]) for rule in found["violations"]]


@contextmanager
def browser(**options: Any) -> Iterator[Browser]:
    """A tab of its own.

    Args:
        options: of the tab's context, such as viewport and color_scheme.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        seen = Browser(chromium.new_context(**options).new_page())
        seen.tab.on("console", lambda message: seen.troubles.append(message.text))
        seen.tab.on("pageerror", lambda error: seen.troubles.append(str(error)))
        seen.tab.on("request", lambda request: seen.requests.append(request.url))
        yield seen
        chromium.close()
