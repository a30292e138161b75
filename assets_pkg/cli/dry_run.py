"""What ``-d`` shows beside the plan: inputs from earlier stages, files that are named in the settings, and settings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from assets_pkg.cli.common import plain
from assets_pkg.config.profile import Profile
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.stages import SECTIONS, STAGE_OF, STAGES
from storage.errors import RetuneError
from storage.printable import visible

if TYPE_CHECKING:
    from assets_pkg.orchestration.plan import Plan

FETCHED = "base_model"
"""It comes with whatever needs it, and reads the model's section only, as they do."""


class DryRunError(RetuneError):
    """The run would fail for sure; the message says why."""


def show_inputs(console: Console, plan: Plan) -> None:
    """Print what the plan needs of earlier stages: its version, or what makes it."""
    for name, version in plan.inputs.items():
        if version is not None:
            console.print(f"[bold]input[/]    {name} {version}", highlight=False)
            continue
        stage = STAGE_OF[name]
        console.print(
            f"[yellow]missing[/]  {name}: not made yet, `retune {stage}` makes it (with all before it: "
            f"`retune run --to {stage}`)",
            highlight=False,
        )


def check_given(profile: Profile, plan: Plan) -> None:
    """Check that the files and folders exist that the plan would read in place of what stages make.

    Raises:
        DryRunError: one does not.
    """
    given = {
        "synthetic_qa": ("sdg.sdg_input_path", profile.sdg.sdg_input_path),
        "training_set": ("prep.train_input_file", profile.prep.train_input_file),
        "eval_set": ("prep.eval_data_path", profile.prep.eval_data_path),
        "checkpoint": ("eval.finetuned_model_path", profile.eval.finetuned_model_path),
        "promoted_model": ("export.model_path or deploy.model_dir", profile.imported_model),
    }
    for asset, (setting, path) in given.items():
        if asset in plan.to_run and path is not None and not Path(path).expanduser().exists():
            raise DryRunError(f"{setting} = {path}: no such file or folder")


def show_files(console: Console, profile: Profile) -> None:
    """Print how many files of a local corpus would be read, by type, and how many would not, by extension."""
    from assets_pkg.corpus.sources import files_by_type

    read, others = files_by_type(profile.corpus)
    if read:
        console.print(f"[bold]documents[/]  {_counts(read)}", highlight=False)
    if others:
        console.print(f"[bold]not read[/]   {_counts(others)}", highlight=False)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {plain(name) or 'without extension'}" for name, count in counts.items())


def show_settings(console: Console, profile: Profile, plan: Plan) -> None:
    """Print the settings of the stages that would run, by section, in the form in which they are typed; those that the
    default profile has too are dim. Those that are null or empty are left out."""
    stages = dict.fromkeys(STAGE_OF[asset] for asset in plan.to_run if asset != FETCHED)
    default = load_profile("default")
    console.print("settings, dim where they are the default's:")
    for section in dict.fromkeys(section for stage in stages for section in SECTIONS[stage]):
        if section in STAGES and section not in stages:
            continue
        usual = set(_typed(default, section))
        typed = Text(" ").join(
            Text(each, "dim" if each in usual else "bold") for each in _typed(profile, section)
        )
        console.print(f"  [bold]{section}[/]", highlight=False)
        if console.is_terminal:
            console.print(Padding(typed, (0, 0, 0, 4), expand=False))
        else:  # a section a line, whatever reads it
            console.print(Text("    ") + typed, soft_wrap=True)


def _typed(profile: Profile, section: str) -> Iterator[str]:
    values: dict[str, Any] = getattr(profile, section).model_dump(mode="json")
    for name, value in values.items():
        if value not in (None, "", [], {}):
            yield visible(shlex.quote(f"{name}={_text(value)}"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def show_engine(console: Console, profile: Profile) -> None:
    """Print the TensorRT engine that would be built, as the command that builds it."""
    from assets_pkg.config.sections.export import TensorrtSettings
    from assets_pkg.export.tensorrt import plan_engine
    from storage.paths import ONNX_LINK, TENSORRT_LINK
    from storage.remote_store import open_store

    root = open_store(profile.artifact_root).root
    with_dimensions = profile.export.export_layout == "recipe"
    engine = plan_engine(profile.export.part(TensorrtSettings), with_dimensions=with_dimensions)
    command = engine.shell(root / ONNX_LINK, root / TENSORRT_LINK)
    console.print("the engine's command, on a machine with a GPU and TensorRT:")
    console.print(plain(command), highlight=False)
