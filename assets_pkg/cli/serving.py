"""``retune deploy`` and ``retune serve``: the embedding server, in the background or in the foreground."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assets_pkg.cli.common import (
    ConfigOption,
    DryRunOption,
    Overrides,
    console,
    failed,
    load_settings,
    plain,
)
from assets_pkg.cli.running import run_or_show
from assets_pkg.config.project import typed_path
from storage.paths import ONNX_LINK, PROMOTED_MODEL, STATE_FOLDER, TENSORRT_LINK

if TYPE_CHECKING:
    from assets_pkg.config.profile import Profile
    from assets_pkg.deploy.server_state import RunningServer

LOG_LINES = 200
SERVE_PORT = 8003


def deploy(
    config: ConfigOption = "",
    dry_run: DryRunOption = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the deployed server.")] = False,
    logs: Annotated[bool, typer.Option("--logs", help="Print the end of the server's log.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="With --logs: go on until the server ends.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Start the embedding server of the promoted model, or replace the running one."""
    profile = load_settings(config, overrides, section="deploy")
    if stop:
        _stop(profile)
    elif logs:
        _show_log(profile, follow)
    else:
        run_or_show(profile, list(profile.stages()["deploy"]), dry_run)
        if dry_run:
            _show_command(profile)
        elif not profile.deploy.detach:
            _stay(profile)


def serve(
    model: Annotated[
        str | None, typer.Option("--model", help="A model of models.yaml (default: the export).")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="An exported folder, or a checkpoint, which runs under torch."),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Default: 127.0.0.1, or NIM_SERVER_BIND_ADDR's.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", min=1, max=65535, help="Default: NIM_HTTP_API_PORT, or 8003."),
    ] = None,
    config: ConfigOption = "",
    overrides: Overrides = None,
) -> None:
    """Serve the current export, a folder, or any registered model (text and images), in the foreground."""
    from assets_pkg.model_server.serve import ready_line, serve_model, url_of
    from assets_pkg.nim.settings import SettingsError, listen_address

    try:
        host, port = listen_address(os.environ, host, port, SERVE_PORT)
    except SettingsError as error:
        raise failed(str(error)) from error
    if model is not None:
        serve_model(
            model, host, port, ready=lambda url: console.print(plain(ready_line(model, url)), soft_wrap=True)
        )
        return
    served = typed_path(folder) if folder is not None else _exported_model(load_settings(config, overrides))
    command = [sys.executable, "-m", _server_module(served), "--model-dir", str(served)]
    url = url_of(host, port, tls=bool(os.environ.get("NIM_TLS_CERT_PATH")))
    console.print(plain(ready_line(str(served), url, "will be served")), soft_wrap=True)
    sys.stdout.flush()
    os.execv(sys.executable, [*command, "--host", host, "--port", str(port)])


def _server_module(folder: Path) -> str:
    from assets_pkg.nim.loading import is_checkpoint

    return "assets_pkg.export.serve_checkpoint" if is_checkpoint(folder) else "assets_pkg.nim"


def _exported_model(profile: Profile) -> Path:
    from storage.remote_store import open_store

    store = open_store(profile.artifact_root)
    # Without an export the server exits with an error that names this folder.
    return store.resolve(ONNX_LINK) or store.root / ONNX_LINK


def _stop(profile: Profile, interrupts: int = 1) -> None:
    """Stop the server when it has answered what it accepted; an interrupt after so many others ends it at once."""
    from assets_pkg.deploy.deploy import stop_deployed
    from assets_pkg.reindex.searched_index import follow_server
    from storage.remote_store import open_store

    store = open_store(profile.artifact_root)
    server = stop_deployed(store.root / STATE_FOLDER, _say, interrupts)
    if server is not None:
        console.print(f"stopped the server at {plain(server.url)}")
        follow_server(store)
    else:
        console.print("no server is running")


def _stay(profile: Profile) -> None:
    """Wait in the foreground while the server runs; stop it when this process gets SIGTERM or SIGINT."""
    server = _server(profile)
    if server is None:
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        console.print(
            f"serving at {plain(server.url)}: Ctrl-C stops the server, twice at once", highlight=False
        )
        while server.alive():
            time.sleep(1)
    except KeyboardInterrupt:
        _stop(profile, interrupts=0)
        return
    raise failed(f"the server at {server.url} ended; its log: retune deploy --logs")


def _say(text: str) -> None:
    console.print(plain(text), highlight=False, soft_wrap=True)


def _show_log(profile: Profile, follow: bool) -> None:
    server = _server(profile)
    if server is None:
        raise failed("no server was deployed")
    if not follow:
        _say(server.last_log(LOG_LINES))
        return
    with suppress(KeyboardInterrupt):
        for line in server.follow_log(LOG_LINES):
            _say(line)


def _show_command(profile: Profile) -> None:
    from assets_pkg.deploy.deploy import shown_command
    from assets_pkg.deploy.server_state import ServedModel
    from storage.remote_store import open_store

    store = open_store(profile.artifact_root)
    links = (ONNX_LINK, PROMOTED_MODEL, TENSORRT_LINK)
    exported, promoted, engine = (store.resolve(name) or store.root / name for name in links)
    served = ServedModel(exported, promoted / "model" / "consolidated", promoted.name, engine)
    command = shown_command(served, profile.deploy, store.root / STATE_FOLDER)
    console.print("the server's command, after its checks have passed:")
    console.print(plain(command), highlight=False)


def _server(profile: Profile) -> RunningServer | None:
    from assets_pkg.deploy.deploy import read_state
    from storage.remote_store import open_store

    return read_state(open_store(profile.artifact_root).root / STATE_FOLDER)
