"""Headers of weight files: whole, truncated and hostile ones."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resources.models.safetensors_files import announced_bytes, safetensors_problem, tensor_shapes


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.ones(5, np.float16)}, path, {"format": "pt"})
    return path


def with_header(header: Any, data: int = 48) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def tensor(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def test_a_whole_file(whole: Path) -> None:
    assert tensor_shapes(whole) == {"a": [3, 4], "b": [5]}
    assert announced_bytes(whole) == whole.stat().st_size
    assert safetensors_problem(whole) is None


@pytest.mark.parametrize("change", [-1, 1, -50])
def test_a_file_of_another_length_is_named_with_both_lengths(change: int, whole: Path) -> None:
    content = whole.read_bytes()
    whole.write_bytes(content[:change] if change < 0 else content + b"x")
    size = len(content) + change
    assert safetensors_problem(whole) == f"{size:,} bytes long, and its header says {len(content):,}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "shorter than a safetensors header"),
        (b"12345", "shorter than a safetensors header"),
        (struct.pack("<Q", 2**60) + b"{}", "cut short or is not one"),
        (struct.pack("<Q", 90) + b"{}", "cut short or is not one"),
        (struct.pack("<Q", 4) + b"nope", "cut short or is not one"),
        (struct.pack("<Q", 2) + b"[]", "cut short or is not one"),
        (struct.pack("<Q", 100_000) + b"[" * 100_000, "cut short or is not one"),
        (with_header({"a": {"dtype": "F32"}}), "cut short or is not one"),
        (
            with_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": "ab"}}),
            "not one of safetensors",
        ),
        (with_header({"a": tensor([3, 4], 8, 56)}, 56), "not one of safetensors"),
        (with_header({"a": tensor([-3, 4], 0, 48)}), "not one of safetensors"),
        (with_header({"a": tensor([3, 4], 0, 48), "b": tensor([3, 4], 0, 48)}), "not one of safetensors"),
    ],
)
def test_hostile_files_are_refused_with_a_plain_message(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    found = safetensors_problem(path)
    assert found is not None
    assert message in found
