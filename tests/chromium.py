"""Headless Chromium for tests of pages."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest


def lacking() -> str | None:
    """What a browser test needs and this machine lacks."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    gone = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    return f"there is no {' and no '.join(gone)}" if gone else None


@contextlib.contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """A driver; the test is skipped where there is none, but not in CI."""
    if reason := lacking():
        if os.environ.get("CI"):
            pytest.fail(f"{reason}, and CI must see the page")
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    basic = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage")
    for flag in (*basic, *flags):
        options.add_argument(flag)
    logs = {"browser": "ALL", "performance": "ALL"}
    options.set_capability("goog:loggingPrefs", logs)
    service = Service(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()
