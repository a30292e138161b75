"""Every setting is described once, with the type and the range that it is checked by."""

from __future__ import annotations

import pytest

from assets_pkg.config.base import Settings
from assets_pkg.config.describe import describe, descriptions
from assets_pkg.config.profile import Profile
from assets_pkg.config.profile_files import load_profile


def test_every_setting_has_its_line() -> None:
    there = {
        name: set(field.annotation.model_fields)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
        else set()
        for name, field in Profile.model_fields.items()
    }
    described = {
        name: set(lines) if isinstance(lines, dict) else set() for name, lines in descriptions().items()
    }
    assert described == there
    for setting in describe(load_profile("default")):
        assert setting.line.endswith("."), setting.key
        assert len(setting.line) <= 140, setting.key


@pytest.mark.parametrize(
    ("key", "kind", "shown", "decides"),
    [
        ("finetune.learning_rate", "number > 0 and < 1", "0.0001", True),
        ("corpus.num_files", "whole number >= 1 or null", "null", True),
        ("prep.groups_json", "text or list of text or null", "null", True),
        ("eval.k_values", "list of whole number >= 1", "[1, 5, 10, 100]", True),
        ("sdg.requests_per_minute", "number > 0 or one of auto or null", "auto", False),
        ("deploy.backend", "one of process, docker, vllm", "process", True),
        ("model.query_prefix", "text", '""', True),
        ("artifact_root", "text", "./output/embed", False),
    ],
)
def test_a_setting_in_full(key: str, kind: str, shown: str, decides: bool) -> None:
    found = {setting.key: setting for setting in describe(load_profile("laptop"))}[key]
    assert (found.kind, found.shown, found.decides) == (kind, shown, decides)


def test_one_section() -> None:
    assert [setting.key for setting in describe(load_profile("laptop"), "gate")] == [
        "gate.metric",
        "gate.min_delta",
        "gate.max_regression",
        "gate.guard_sets",
        "gate.max_general_loss",
    ]
