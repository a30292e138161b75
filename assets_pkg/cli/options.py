"""Options that several commands have."""

from __future__ import annotations

import os
from typing import Annotated

import typer

ConfigOption = Annotated[str, typer.Option("--config", "-c", help="A profile's name or a YAML file.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", "-d", help="Show what would run and why; change nothing.")
]
RunOption = Annotated[
    str | None, typer.Option("--run", help="Where the work runs: a place of env.toml. Ctrl-C ends it there.")
]
BatchOption = Annotated[
    str | None, typer.Option("--batch", help="Submit one job to a place of env.toml, and leave it there.")
]
StageOption = Annotated[
    bool, typer.Option("--stage", help="With --run or --batch: write the job, and submit nothing.")
]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings as key=value or stage.key=value.")]
DEFAULT_PROFILE = os.environ.get("RETUNE_PROFILE", "laptop")
