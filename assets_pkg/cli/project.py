"""``retune info``, ``doctor`` and ``ui``: a project's settings, its machine, and its UI."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from assets_pkg.cli.common import EXIT_FAILED, ConfigOption, Overrides, console, load_settings, plain, usage
from assets_pkg.config.env_file import load_env_file
from assets_pkg.config.profile import profile_names
from assets_pkg.config.project import PROJECT_FILE, make_project, profile_name, typed_override, typed_path

FIRST_PORT = 8000
NEXT = (
    ("cd {folder}", ""),
    ("retune run -d --to reindex", "what would run; changes nothing"),
    ("retune run --to reindex", "fine-tune, measure, serve and index"),
    ('retune search "..."', "search the index"),
    ("retune ui", "the graph, its history and figures"),
)


def init(
    folder: Annotated[Path, typer.Argument(help="The project's folder, made if need be.")],
    documents: Annotated[
        Path | None, typer.Option("--documents", help="The folder of your documents (it is only read).")
    ] = None,
    profile: Annotated[
        str, typer.Option("--profile", help="The profile whose settings it starts from.")
    ] = "laptop",
) -> None:
    """Make a project: a folder with its settings (retune.yaml), and later its artifacts and history."""
    where, source = typed_path(folder), documents and typed_path(documents)
    if profile not in profile_names():
        raise usage(f"--profile {profile}: choose from {', '.join(profile_names())}")
    make_project(where, source, profile, _free_port())
    console.print(f"made {plain(where / PROJECT_FILE)}", highlight=False)
    console.print("\nnext:", highlight=False)
    for command, purpose in NEXT:
        console.print(f"  {plain(command.format(folder=folder)):40} [dim]{purpose}[/]", highlight=False)


def _free_port() -> int:
    """The first port from `FIRST_PORT` on that no server has, so that two projects can serve at once."""
    for port in range(FIRST_PORT, FIRST_PORT + 1000):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) != 0:
                return port
    return FIRST_PORT


def info(config: ConfigOption = "", overrides: Overrides = None) -> None:
    """Print the stages, the profiles, and every setting of one profile."""
    from storage.remote_store import open_store

    profile = load_settings(config, overrides)
    console.print(f"[bold]profiles[/]  {plain(', '.join(profile_names()))}, or a YAML file of your own")
    for stage, assets in profile.stages().items():
        console.print(f"[bold]{stage:9}[/] {' -> '.join(assets)}", highlight=False)
    store = open_store(profile.artifact_root)
    if store.location != str(store.root):
        console.print(
            f"[bold]artifacts[/] {plain(store.location)}, this machine's copy in {plain(store.root)}",
            highlight=False,
        )
    console.print(f"\n[bold]settings of {plain(profile_name(config))}[/]")
    console.print_json(profile.model_dump_json())


def doctor(config: ConfigOption = "", overrides: Overrides = None) -> None:
    """Check whether this machine is ready for the profile. Exit code 1 if there is a problem."""
    from assets_pkg.cli.diagnostics import examine

    marks = {"ok": "[green]ok[/]", "note": "[cyan]note[/]", "problem": "[red]problem[/]"}
    healthy = True
    for finding in examine(load_settings(config, overrides)):
        healthy &= finding.level != "problem"
        console.print(
            f"{marks[finding.level]:18} [bold]{finding.subject}[/]: {plain(finding.text)}", highlight=False
        )
    raise typer.Exit(0 if healthy else EXIT_FAILED)


def ui(
    config: ConfigOption = "",
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535)] = 3000,
    host: Annotated[str, typer.Option("--host")] = "127.0.0.1",
    overrides: Overrides = None,
) -> None:
    """Start the Dagster UI with its daemon (sensors and schedules) for this profile."""
    from assets_pkg.orchestration.instance import open_instance, workspace_file

    load_env_file(Path.cwd())  # an error here, since Dagster would read the file all the same
    given = [typed_override(text) for text in overrides or ()]
    load_settings(config, overrides)
    with open_instance() as instance:
        workspace = workspace_file(instance)
    os.environ["RETUNE_PROFILE"] = profile_name(config)
    os.environ["RETUNE_OVERRIDES"] = "\n".join(given)
    # A script's `retune ui &` ignores SIGINT, and Dagster would inherit that and could not be stopped by SIGTERM.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # `dagster dev`, because `dg dev` needs a project folder.
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "dev", "-w", str(workspace)]
    os.execv(sys.executable, [*command, "--host", host, "--port", str(port)])
