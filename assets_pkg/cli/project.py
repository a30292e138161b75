"""``retune info``, ``doctor`` and ``ui``: a project's settings, its machine, and its UI."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from assets_pkg.cli.common import (
    EXIT_FAILED,
    ConfigOption,
    Overrides,
    console,
    failed,
    load_settings,
    plain,
    tables,
    usage,
)
from assets_pkg.cli.settings_table import print_settings
from assets_pkg.config.env_file import load_env_file
from assets_pkg.config.project import PROJECT_FILE, make_project, profile_name, typed_override, typed_path
from storage.printable import visible_json

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
    from assets_pkg.config.profile_files import profile_names

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


def info(
    config: ConfigOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the settings as one JSON object.")] = False,
    overrides: Overrides = None,
) -> None:
    """Show the stages, the profiles, and every setting of this project with what it is."""
    from assets_pkg.config.profile_files import profile_names
    from storage.remote_store import open_store

    profile = load_settings(config, overrides)
    if as_json:
        sys.stdout.write(visible_json(profile.model_dump(mode="json")) + "\n")
        return
    rows = [(stage, " -> ".join(assets)) for stage, assets in profile.stages().items()]
    rows.append(("profiles", f"{', '.join(profile_names())}, or a YAML file of your own"))
    store = open_store(profile.artifact_root)
    if store.location != str(store.root):
        rows.append(("artifacts", f"{store.location}, this machine's copy in {store.root}"))
    _print_rows(("bold", ""), rows)
    tables.print(
        f"\nsettings of [bold]{plain(profile_name(config))}[/] (bold: other than the recipe's)",
        highlight=False,
    )
    print_settings(tables, profile, type(profile).model_fields)


def doctor(config: ConfigOption = "", overrides: Overrides = None) -> None:
    """Check whether this machine is ready for the profile. Exit code 1 if there is a problem."""
    from assets_pkg.cli.diagnostics import examine

    styles = {"ok": "green", "note": "cyan", "problem": "red"}
    found = list(examine(load_settings(config, overrides)))
    rows = [(f"[{styles[each.level]}]{each.level}[/]", each.subject, each.text) for each in found]
    _print_rows(("", "bold", ""), rows)
    raise typer.Exit(EXIT_FAILED if any(each.level == "problem" for each in found) else 0)


def _print_rows(styles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows whose last cell is folded beside the others."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for number, style in enumerate(styles, start=1):
        table.add_column(style=style, no_wrap=number < len(styles), overflow="fold")
    for row in rows:
        table.add_row(*row[:-1], plain(row[-1]))
    tables.print(table, highlight=False)


def ui(
    config: ConfigOption = "",
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="Port of the UI.")] = 3000,
    host: Annotated[str, typer.Option("--host", help="Address that the UI listens on.")] = "127.0.0.1",
    overrides: Overrides = None,
) -> None:
    """Start the Dagster UI with its daemon (sensors and schedules) for this profile."""
    from assets_pkg.model_server.serve import url_of
    from assets_pkg.orchestration.instance import open_instance, workspace_file

    load_env_file(Path.cwd())  # an error here, since Dagster would read the file all the same
    given = [typed_override(text) for text in overrides or ()]
    load_settings(config, overrides)
    with socket.socket() as tried:
        if tried.connect_ex((host, port)) == 0:
            raise failed(f"port {port} of {host} is in use: choose another with --port")
    with open_instance() as instance:
        workspace = workspace_file(instance)
    console.print(f"the UI will be at {url_of(host, port)} in some seconds; Ctrl-C stops it", highlight=False)
    sys.stdout.flush()
    os.environ["RETUNE_PROFILE"] = profile_name(config)
    os.environ["RETUNE_OVERRIDES"] = "\n".join(given)
    # A script's `retune ui &` ignores SIGINT, and Dagster would inherit that and could not be stopped by SIGTERM.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # `dagster dev`, because `dg dev` needs a project folder.
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "dev", "-w", str(workspace)]
    options = ["--host", host, "--port", str(port), "--log-level", "error"]
    os.execv(sys.executable, [*command, *options])
