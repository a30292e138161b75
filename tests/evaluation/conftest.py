from __future__ import annotations

import numpy as np
import pytest

from assets_pkg.evaluation.metrics import RetrievalScores
from assets_pkg.evaluation.settings import EvalSettings
from assets_pkg.profile import load_profile


@pytest.fixture
def settings() -> EvalSettings:
    return load_profile("laptop", ["eval.bootstrap_samples=2000"]).eval


def made_up(values, name: str = "NDCG@10") -> RetrievalScores:
    """Scores of one metric, given per query."""
    values = np.asarray(values, dtype=float)
    return RetrievalScores(tuple(f"q{n}" for n in range(len(values))), {name: values}, {})
