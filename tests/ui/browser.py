"""Debian's Chromium looking at the Dagster UI; what it saw is kept as pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Locator, Page, Response, expect, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from tests.apt import install_packages

CHROMIUM = "/usr/bin/chromium"
WINDOW = (1600, 1000)
PATIENCE_MS = 90_000
CLICKS = 6
STILL = """document.addEventListener("DOMContentLoaded", () => {
    const style = document.createElement("style");
    style.textContent = "*, *::before, *::after { animation: none !important; transition: none !important }";
    document.head.append(style);
});"""
"""Nothing moves: without a GPU, each frame of a spinner is drawn by the processor."""


HARMLESS = ("net::ERR_ABORTED", "net::ERR_NETWORK_CHANGED", "Failed to fetch")
"""Why requests end that have not failed: their page was left; Docker, whose tests run beside, has a new interface. Of
one that failed, what the page then throws says less than the request."""


class Screen:
    """One window. ``problems``: what pages threw, and requests that failed."""

    def __init__(self, page: Page, url: str, pictures: Path):
        self.page = page
        self.url = url
        self.pictures = pictures
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self._note(str(error)))
        page.on("requestfailed", lambda request: self._note(f"{request.failure} {request.url}"))
        page.on("response", self._note_error)
        pictures.mkdir(parents=True, exist_ok=True)

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)

    def leave(self) -> None:
        """Show nothing, so that a wait for something else costs no drawing."""
        self.page.goto("about:blank")

    def keep(self, name: str) -> None:
        """Keep what is to be seen, once nothing more is being fetched, as ``name.png``."""
        self.page.wait_for_load_state("networkidle")
        self.page.screenshot(path=self.pictures / f"{name}.png", animations="disabled")

    def show_graph(self, groups: Iterable[str], selection: str = "") -> Locator:
        """The lineage of ``selection`` (everything) with ``groups`` open; gives its boxes."""
        path = f"/asset-groups~{quote(selection)}/" if selection else "/asset-groups"
        expanded = ",".join(f"global@global:{group}" for group in groups)
        self.open(f"{path}?expanded={quote(expanded)}")
        return self.page.locator("foreignObject")

    def await_colours(self) -> None:
        """Wait until every asset of a graph that is seen from afar has the colour of its status."""
        expect(self.page.locator("foreignObject [style*='--color-border-default']")).to_have_count(0)

    def show_asset(self, asset: str) -> None:
        """The asset's page, its metadata loaded."""
        self.open(f"/assets/{asset}")
        expect(self.page.get_by_placeholder("Filter metadata keys")).to_be_visible()

    def show_picture(self, key: str) -> Locator:
        """Open a picture of the metadata of the asset that is shown; gives the image."""
        row = self.page.locator("tr", has=self.page.get_by_text(key, exact=True))
        shown = self.page.get_by_role("dialog").filter(has_text=key)
        for _ in range(CLICKS):
            row.get_by_text("[Show Markdown]").click()
            try:
                shown.wait_for(timeout=PATIENCE_MS / CLICKS)
                break
            except PlaywrightTimeout:
                continue  # the page was drawn anew under the click
        return shown.locator("img[src^='data:image/png']")

    def _note(self, problem: str) -> None:
        if not problem.startswith(HARMLESS):
            self.problems.append(problem)

    def _note_error(self, answer: Response) -> None:
        if answer.status >= 400:
            self._note(f"{answer.status} {answer.url}")


@contextmanager
def open_screen(url: str, pictures: Path, window: tuple[int, int] = WINDOW) -> Iterator[Screen]:
    """A window on the UI at ``url``, in a browser of its own; Chromium is installed if need be."""
    install_packages({"chromium": "chromium"})
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": window[0], "height": window[1]})
        page.add_init_script(STILL)
        page.set_default_timeout(PATIENCE_MS)
        yield Screen(page, url, pictures)
        browser.close()
