from __future__ import annotations

import numpy as np

from assets_pkg.retrieval.fusion import fuse
from resources.vector_store.base import Hit


def test_fusion_adds_reciprocal_ranks() -> None:
    def hit(doc: str) -> Hit:
        return Hit(0.5, f"d_{doc}", doc, 1, "", "", doc)

    fused = fuse([[hit("a"), hit("b")], [hit("b"), hit("c")]])
    assert [found.doc_id for found in fused] == ["b", "a", "c"]
    expected = [1 / 62 + 1 / 61, 1 / 61, 1 / 62]
    np.testing.assert_allclose([found.score for found in fused], expected)
