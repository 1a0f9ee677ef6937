"""Debian's Chromium without a window, driven by Playwright's Python package."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium(microphone: Path | None = None) -> Iterator[Any]:
    """Yield a browser, or skip the test with the reason. microphone: a wav file that it takes for its microphone."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs: pip install playwright")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("needs a browser: apt-get install chromium")
    options = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    options.append("--autoplay-policy=no-user-gesture-required")
    if microphone is not None:
        options.append(f"--use-file-for-fake-audio-capture={microphone}")
    if os.geteuid() == 0:
        # Chromium's sandbox refuses to start for root, as whom containers run
        options.append("--no-sandbox")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()


class Watched:
    """A tab whose errors and requests are noted. It ends the test unless there were no errors."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.tab = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self._note(message.type, message.text))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.context.on("request", lambda request: self.requests.append(request.url))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(text)

    def close(self, origin: str) -> None:
        """Close the tab, and check that all went well and nothing was asked of another origin."""
        self.context.close()
        assert not self.errors
        assert not [url for url in self.requests if not url.startswith((origin, "blob:", "data:"))]
