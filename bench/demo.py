"""Where the time of the demo goes: `python bench/demo.py [key=value ...] [--profile demo] [--work FOLDER]`.

Makes a project and runs its stages up to the index in this process. Of each stage: CPU and wall seconds, and of those
that embed or train the work of the network and how near that comes to the rate of this machine's linear layers, which
is measured before and after.

Work is counted for tokens that are no padding. A text of n tokens takes 2 W n + 4 L h n^2 FLOP in one pass, with W the
weights of the linear layers, L layers and width h (the second term: scores and sums of attention); training takes three
passes, the backward one counting twice. A pass that training repeats to save memory is counted where it happens, as one
without a gradient.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from assets_pkg.automation.execute import run_assets
from assets_pkg.automation.external_changes import build_probes
from assets_pkg.cli.running import definitions
from assets_pkg.config.profile import Profile
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.project import PROJECT_FILE, make_project
from assets_pkg.config.stages import assets_between
from assets_pkg.deploy.deploy import stop_deployed
from assets_pkg.finetune.model_io import attention_of
from assets_pkg.orchestration.instance import open_instance
from assets_pkg.orchestration.plan import make_plan
from assets_pkg.orchestration.run_observer import set_run_observer
from resources.encoders.speed import inference_rate, training_rate
from resources.machine.imports import spare_imports
from resources.models.shape import ModelShape, read_shape
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint
from storage.paths import STATE_FOLDER

PORT = 18990


class Kind(NamedTuple):
    """How a pass through the network is computed."""

    training: bool
    bf16: bool


@dataclass
class Stage:
    """What one stage cost, and what went through the network meanwhile: of each kind of pass, the texts, their tokens,
    the sum of their squared lengths, and the tokens with padding."""

    cpu: float = 0.0
    wall: float = 0.0
    texts: Counter[Kind] = field(default_factory=Counter)
    tokens: Counter[Kind] = field(default_factory=Counter)
    squares: Counter[Kind] = field(default_factory=Counter)
    padded: int = 0

    def flop(self, shape: ModelShape) -> dict[Kind, float]:
        """The work of the network, by kind of pass."""
        weights = sum(outputs * inputs for outputs, inputs in shape.linear)
        return {
            kind: (3 if kind.training else 1)
            * (2 * weights * tokens + 4 * shape.layers * shape.hidden * self.squares[kind])
            for kind, tokens in self.tokens.items()
        }


class Stopwatch:
    """Hears of the steps of a run and adds what they use to the stages, by name."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self.current = Stage()
        self._before = _clock()

    def started(self, step: str) -> None:
        self.current = self.stages.setdefault(step, Stage())
        self._before = _clock()

    def finished(self, step: str) -> None:
        cpu, wall = _clock()
        stage = self.stages[step]
        stage.cpu, stage.wall = stage.cpu + cpu - self._before[0], stage.wall + wall - self._before[1]
        self.current = Stage()

    def note(self, text: str) -> None: ...

    def progress(self, step: str, done: int, total: int, unit: str, **figures: float) -> None: ...

    def passed(self, kind: Kind, mask: Any, computed: int) -> None:
        """Count a batch by its attention mask, [texts, padded length], of which so many tokens are ``computed``."""
        lengths = mask.sum(axis=1).tolist()
        stage = self.current
        stage.texts[kind] += len(lengths)
        stage.tokens[kind] += sum(lengths)
        stage.squares[kind] += sum(length**2 for length in lengths)
        stage.padded += computed


def _clock() -> tuple[float, float]:
    """CPU seconds of this process and of children that have ended, and the time, in seconds."""
    return sum(os.times()[:4]), time.perf_counter()


@contextlib.contextmanager
def counting(stopwatch: Stopwatch) -> Iterator[None]:
    """Within the block, reports every batch that goes through a network in this process to the stopwatch."""
    import torch
    from sentence_transformers import SentenceTransformer

    from assets_pkg.finetune.packing import PACKED, groups_of
    from assets_pkg.nim.model import OnnxModel

    forward: Any = SentenceTransformer.forward
    run: Any = OnnxModel._run

    def counted(self: Any, features: Any, **options: Any) -> Any:
        kind = Kind(torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))
        mask = features["attention_mask"]
        groups = groups_of(mask.sum(1).tolist()) if attention_of(self) == PACKED else []
        stopwatch.passed(kind, mask, sum(each.size for each in groups) or mask.numel())
        return forward(self, features, **options)

    def counted_export(self: Any, input_ids: Any, attention_mask: Any) -> Any:
        stopwatch.passed(Kind(training=False, bf16=False), attention_mask, attention_mask.size)
        return run(self, input_ids, attention_mask)

    with (
        patch.object(SentenceTransformer, "forward", counted),
        patch.object(OnnxModel, "_run", counted_export),
    ):
        yield


class Rate(NamedTuple):
    """FLOP a second of linear layers: by the clock, and by CPU seconds, which other work changes less."""

    wall: float
    cpu: float


def rates() -> dict[Kind, Rate]:
    """The rates of this machine's CPU, by kind of pass."""
    return {
        Kind(training, bf16): _rate(training, bf16) for training in (False, True) for bf16 in (False, True)
    }


def _rate(training: bool, bf16: bool) -> Rate:
    before = _clock()
    rate = (training_rate if training else inference_rate)("cpu", bf16=bf16)
    cpu, wall = (after - start for after, start in zip(_clock(), before, strict=True))
    return Rate(rate, rate * wall / cpu)


def run(profile: Profile, stopwatch: Stopwatch) -> None:
    """Run what is missing of the stages up to the index, and stop the server."""
    assets = assets_between("sdg", "reindex", profile.stages())
    defs = definitions(profile)
    set_run_observer(stopwatch)
    try:
        with open_instance() as instance, counting(stopwatch):
            plan = make_plan(defs, instance, assets, build_probes(profile))
            outcome = run_assets(defs, instance, plan.to_run, planned_with=plan.events)
        if not outcome.succeeded:
            raise SystemExit(
                "\n".join(f"{each.step}: {each.message}\n{each.trace}" for each in outcome.failures)
            )
    finally:
        stop_deployed(Path(profile.artifact_root) / STATE_FOLDER)


def table(stages: Mapping[str, Stage], shape: ModelShape, rate: Mapping[Kind, Rate]) -> Iterator[str]:
    """The stages in the order of the run. The shares: the time that the work would take at the machine's rate, of the
    time that the stage took."""
    yield "| stage | CPU s | wall s | texts | tokens | padding | GFLOP | GFLOP/s | of the rate | of that of CPU s |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, stage in stages.items():
        flop = stage.flop(shape)
        shown = f"| {name} | {stage.cpu:.1f} | {stage.wall:.1f} |"
        if not flop:
            yield f"{shown} | | | | | | |"
            continue
        total, tokens = sum(flop.values()), sum(stage.tokens.values())
        wall = sum(work / rate[kind].wall for kind, work in flop.items()) / stage.wall
        cpu = sum(work / rate[kind].cpu for kind, work in flop.items()) / stage.cpu
        yield (
            f"{shown} {sum(stage.texts.values()):,} | {tokens:,} | {1 - tokens / stage.padded:.0%} | "
            f"{total / 1e9:,.0f} | {total / stage.wall / 1e9:,.0f} | {wall:.0%} | {cpu:.0%} |"
        )
    cpu, wall = sum(each.cpu for each in stages.values()), sum(each.wall for each in stages.values())
    yield f"| all | {cpu:.1f} | {wall:.1f} | | | | | | | |"


def measure(folder: Path, name: str, overrides: list[str]) -> None:
    make_project(folder, None, name, PORT)
    os.chdir(folder)
    profile = load_profile(PROJECT_FILE, overrides)
    stopwatch = Stopwatch()
    stopwatch.started("importing the libraries")
    import sentence_transformers  # noqa: F401
    import torch

    stopwatch.finished("importing the libraries")
    before = rates()
    run(profile, stopwatch)
    after = rates()
    store = ArtifactStore(Path(profile.artifact_root))
    base = store.get(Checkpoint, "base_model", store.versions("base_model")[0])
    rate = {
        kind: Rate(*(sum(pair) / 2 for pair in zip(before[kind], after[kind], strict=True)))
        for kind in before
    }
    print(
        f"{torch.get_num_threads()} threads; load {os.getloadavg()[0]:.1f}; GFLOP a second, of linear layers:"
    )
    for kind, each in rate.items():
        name = f"{'training' if kind.training else 'inference'} in {'bf16' if kind.bf16 else 'fp32'}"
        figures = " and ".join(f"{figure.wall / 1e9:.0f}" for figure in (before[kind], after[kind]))
        print(f"  {name}: {figures} before and after; of CPU seconds {each.cpu / 1e9:.0f}")
    print("\n".join(table(stopwatch.stages, read_shape(base.model), rate)))
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def main() -> None:
    spare_imports()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="settings as key=value")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--work", type=Path, help="make the project in this folder and keep it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="retune-demo-") as folder:
        measure((options.work or Path(folder) / "project").resolve(), options.profile, options.overrides)


if __name__ == "__main__":
    main()
