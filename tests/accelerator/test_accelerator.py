"""The device that is found, and what it lets in."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from resources.configurable import AcceleratorResource
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from resources.machine.accelerator import Accelerator, NotEnoughMemoryError, find_accelerator
from resources.machine.host_memory import available_memory, total_memory
from resources.machine.memory_estimate import MemoryNeed

NEED = MemoryNeed("embedding", {"weights": 3_000_000_000, "activations": 1_000_000_000})


def device(free: int) -> Accelerator:
    return Accelerator("cuda:1", "a card", bf16=True, memory_bytes=free)


def test_what_fits_is_let_in() -> None:
    device(4_000_000_000).admit(NEED)


def test_what_does_not_is_refused_with_the_first_change_that_fits() -> None:
    changes = [
        ("half of it", MemoryNeed("embedding", {"weights": 2_000_000_000})),
        ("a quarter", MemoryNeed("embedding", {"weights": 900_000_000})),
    ]
    with pytest.raises(NotEnoughMemoryError) as refused:
        device(1_000_000_000).admit(NEED, changes)
    assert str(refused.value).startswith(
        "embedding would need about 4.00 GB (weights 3.00, activations 1.00), and 1.00 GB are free on cuda:1 "
        "(a card). a quarter would need 0.90 GB."
    )


def test_nothing_is_refused_where_memory_is_not_looked_at() -> None:
    device(0).admit(NEED)
    assert AcceleratorResource(device="cpu", check_memory=False).get().memory_bytes == 0


def test_an_encoder_is_refused_before_its_weights_are_read(tiny_model: Path, tmp_path: Path) -> None:
    """Its folder has configuration and headers only: loading it would fail otherwise."""
    small = Accelerator("cpu", "toy", bf16=False, memory_bytes=1_000_000)
    encoder = SentenceTransformerEncoder(tiny_model, "x", small, EncoderConfig(query_max_length=128))
    with pytest.raises(NotEnoughMemoryError, match="No setting makes it small enough"):
        encoder.embed(["a text"], "query")


def test_a_smaller_batch_is_advised_on_a_gpu(minilm: Path) -> None:
    card = Accelerator("cuda", "a small card", bf16=True, memory_bytes=1_000_000_000)
    encoder = SentenceTransformerEncoder(minilm, "x", card, EncoderConfig(batch_size=512))
    with pytest.raises(NotEnoughMemoryError, match=r"a batch of \d+ \(eval.eval_batch_size"):
        encoder.embed(["a text"], "query")


def test_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_accelerator("cpu")
    assert 0 < found.memory_bytes <= psutil.virtual_memory().total + psutil.swap_memory().total


@pytest.mark.parametrize("asked", ["cuda", "cuda:3"])
def test_a_device_that_is_hidden_is_named(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1f2d")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"sees no CUDA device \(CUDA_VISIBLE_DEVICES=MIG-1f2d\)"):
        find_accelerator(asked)


class TestLimitsOfControlGroups:
    """The files of cgroup v2, as the kernel's documentation describes them."""

    def groups(self, tmp_path: Path, own: str) -> tuple[Path, Path]:
        (tmp_path / "membership").write_text(f"1:cpu:/old\n0::{own}\n")
        (tmp_path / "groups").mkdir(exist_ok=True)
        return tmp_path / "groups", tmp_path / "membership"

    def limit(self, group: Path, most: str, used: int, cached: int) -> None:
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.max").write_text(most)
        (group / "memory.current").write_text(str(used))
        (group / "memory.stat").write_text(f"anon 7\ninactive_file {cached}\nactive_file 9\n")

    def test_a_container(self, tmp_path: Path) -> None:
        groups, membership = self.groups(tmp_path, "/")
        self.limit(groups, "5000", used=3000, cached=400)
        assert available_memory(groups, membership) == 5000 - 3000 + 400
        assert total_memory(groups, membership) == 5000

    def test_a_job_inside_a_limited_slice(self, tmp_path: Path) -> None:
        groups, membership = self.groups(tmp_path, "/slice/job")
        self.limit(groups / "slice/job", "max", used=100, cached=0)
        self.limit(groups / "slice", "900", used=100, cached=0)
        assert available_memory(groups, membership) == 800
        assert total_memory(groups, membership) == 900

    def test_none(self, tmp_path: Path) -> None:
        machine = psutil.virtual_memory().total + psutil.swap_memory().total
        assert 0 < available_memory(tmp_path, tmp_path / "none") <= machine
        assert total_memory(tmp_path, tmp_path / "none") == psutil.virtual_memory().total
