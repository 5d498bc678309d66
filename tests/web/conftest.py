"""One browser for a module of tests, and what it complained about in each."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.browser import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def trouble() -> list[str]:
    """What the browser complained about, or asked for beyond the page itself."""
    return []
