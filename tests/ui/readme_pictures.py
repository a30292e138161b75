"""Makes the two screenshots of the README, from a running ``retune ui`` of a finished project:

python -m tests.ui.readme_pictures http://127.0.0.1:3000
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import expect

from tests.ui.browser import Screen, open_screen

DOCS = Path(__file__).parents[2] / "docs"
WINDOW = (1500, 880)
GROUPS = ("corpus", "sdg", "prep", "finetune", "eval", "export", "deploy", "reindex")
SELECTION = 'not (group:"judges" or group:"image_text" or key:"tensorrt_engine")'


def take_lineage(screen: Screen) -> None:
    """The main line as wide as the window."""
    page = screen.page
    screen.open("/asset-groups")
    page.get_by_text("Hide navigation").click()
    node = screen.show_graph(GROUPS, SELECTION).get_by_text("checkpoint", exact=True)
    expect(node).to_be_visible()
    page.get_by_role("button", name="panel_show_right").click()
    page.keyboard.press("Alt+e")  # closed and opened again, the groups are fitted into the width
    expect(node).to_have_count(0)
    page.keyboard.press("Alt+e")
    node.click(trial=True)  # waits until it no longer moves
    page.mouse.move(0, 0)
    screen.await_colours()
    screen.keep("ui-lineage")


def take_measurement(screen: Screen) -> None:
    """The bars of base and fine-tuned model."""
    screen.show_asset("eval_metrics")
    screen.show_picture("bars").click(trial=True)
    screen.keep("ui-eval-metrics")


if __name__ == "__main__":
    with open_screen(sys.argv[1], DOCS, WINDOW) as window:
        take_lineage(window)
        take_measurement(window)
