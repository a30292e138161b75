from __future__ import annotations

import numpy as np
import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.evaluation import EvalSettings
from assets_pkg.retrieval.metrics import RetrievalScores


@pytest.fixture
def settings() -> EvalSettings:
    return load_profile("laptop", ["eval.bootstrap_samples=2000"]).eval


def made_up(values, name: str = "NDCG@10") -> RetrievalScores:
    """Scores of one metric, given per query."""
    values = np.asarray(values, dtype=float)
    return RetrievalScores(tuple(f"q{n}" for n in range(len(values))), {name: values}, {})
