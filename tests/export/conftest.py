"""Tiny checkpoints to export, and texts to compare on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.export.checkpoints import make_llama


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Real prose of many lengths: docstrings, one word to several hundred."""
    import inspect
    import json
    import os

    documented = [
        value for module in (inspect, json, os) for value in vars(module).values() if callable(value)
    ]
    found = [inspect.cleandoc(value.__doc__) for value in documented if isinstance(value.__doc__, str)]
    return ["Retune", *sorted({text for text in found if 20 < len(text) < 3000})[:40]]


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Callable[..., Path]:
    """Makes a tiny Llama checkpoint, causal or not, of the pooling asked for."""

    def make(**how: Any) -> Path:
        return make_llama(tmp_path_factory.mktemp("llama"), texts, **how)

    return make
