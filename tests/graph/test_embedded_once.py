"""How much of a whole run's embedding is done more than once: none."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.graph.embedded import FILE

PASSAGES = 120
"""Three in each of the corpus' forty documents."""


def test_a_whole_run_embeds_no_text_twice_with_one_model(finished: Path) -> None:
    computed: list[tuple[str, str, int]] = json.loads((finished / FILE).read_text())
    assert [text for _, text, times in computed if times > 1] == []
    # Base and tuned model each embed every passage at least, with a question cut out of it or as it is indexed.
    by_model = Counter(model for model, _, _ in computed)
    assert len(by_model) == 2
    assert min(by_model.values()) > PASSAGES
