"""``retune info``, ``doctor`` and ``ui``: a project's settings, its machine, and its UI."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from assets_pkg.cli.common import DEFAULT_PROFILE, EXIT_FAILED, ConfigOption, Overrides, console, plain
from assets_pkg.config.profile import load_profile, profile_names
from assets_pkg.config.stages import STAGES


def info(config: ConfigOption = DEFAULT_PROFILE, overrides: Overrides = None) -> None:
    """Print the stages, the profiles, and every setting of one profile."""
    from storage.remote_store import open_store

    profile = load_profile(config, overrides or [])
    console.print(f"[bold]profiles[/]  {plain(', '.join(profile_names()))}, or a YAML file of your own")
    for stage, assets in STAGES.items():
        console.print(f"[bold]{stage:9}[/] {' -> '.join(assets)}", highlight=False)
    store = open_store(profile.artifact_root)
    if store.location != str(store.root):
        console.print(
            f"[bold]artifacts[/] {plain(store.location)}, this machine's copy in {plain(store.root)}",
            highlight=False,
        )
    console.print(f"\n[bold]settings of {plain(config)}[/]")
    console.print_json(profile.model_dump_json())


def doctor(config: ConfigOption = DEFAULT_PROFILE, overrides: Overrides = None) -> None:
    """Check whether this machine is ready for the profile. Exit code 1 if there is a problem."""
    from assets_pkg.cli.diagnostics import examine

    marks = {"ok": "[green]ok[/]", "note": "[cyan]note[/]", "problem": "[red]problem[/]"}
    healthy = True
    for finding in examine(load_profile(config, overrides or [])):
        healthy &= finding.level != "problem"
        console.print(
            f"{marks[finding.level]:18} [bold]{finding.subject}[/]: {plain(finding.text)}", highlight=False
        )
    raise typer.Exit(0 if healthy else EXIT_FAILED)


def ui(
    config: ConfigOption = DEFAULT_PROFILE,
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535)] = 3000,
    host: Annotated[str, typer.Option("--host")] = "127.0.0.1",
    overrides: Overrides = None,
) -> None:
    """Start the Dagster UI with its daemon (sensors and schedules) for this profile."""
    from assets_pkg.orchestration.instance import open_instance, workspace_file

    load_profile(config, overrides or [])
    with open_instance() as instance:
        workspace = workspace_file(instance)
    os.environ["RETUNE_PROFILE"] = config
    os.environ["RETUNE_OVERRIDES"] = "\n".join(overrides or [])
    # A script's `retune ui &` ignores SIGINT, and Dagster would inherit that and could not be stopped by SIGTERM.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # `dagster dev`, because `dg dev` needs a project folder.
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "dev", "-w", str(workspace)]
    os.execv(sys.executable, [*command, "--host", host, "--port", str(port)])
