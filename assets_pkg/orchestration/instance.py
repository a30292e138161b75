"""The Dagster instance of a project: where runs, events and schedules live.

By default in files under ``DAGSTER_HOME``; with ``RETUNE_POSTGRES_URL`` on a PostgreSQL server that a team shares.
``dagster.yaml`` then names the variable, never its value.
"""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from pathlib import Path

import dagster as dg
import psutil
import yaml
from filelock import FileLock

from storage.errors import RetuneError, chain
from storage.files import write_atomic

DEFINITIONS_MODULE = "assets_pkg.definitions"
CODE_LOCATION = "retune"
GPU_POOL = "gpu"
PROCESS_TAG = "retune/process"
TEMPLATE = Path(__file__).parent / "dagster.yaml"
POSTGRES_ENVIRONMENT = "RETUNE_POSTGRES_URL"
POSTGRES_STORAGE = {"postgres": {"postgres_url": {"env": POSTGRES_ENVIRONMENT}}}
POSTGRES_SCHEME, POSTGRES_DRIVER = "postgresql://", "postgresql+psycopg2://"
"""SQLAlchemy takes the plain form for another driver than the one that dagster-postgres works with."""

CONNECT_TIMEOUT_S = 10

CLOSED_DATABASE = ("attempt to write a readonly database", "unable to open database file")
"""What SQLite says of a file that this user may not write or read."""


class InstanceError(RetuneError):
    """The history of runs cannot be opened; the message says what to set."""


def open_instance() -> dg.DagsterInstance:
    """The instance at ``DAGSTER_HOME``, by default ``.dagster`` in the current folder, made if need be.

    Raises:
        InstanceError: its PostgreSQL server does not answer, its files are closed to this user, or ``dagster.yaml`` and
            the environment disagree.
    """
    try:
        return _open_instance(history_folder())
    except Exception as error:
        closed = explain_closed_history(error)
        if not closed:
            raise
        raise InstanceError(closed) from error


def instance_to_read() -> dg.DagsterInstance:
    """:func:`open_instance` for a look at the history: where there is none yet, an empty one in memory, so that nothing
    is written."""
    if (history_folder() / "dagster.yaml").exists() or os.environ.get(POSTGRES_ENVIRONMENT):
        return open_instance()
    return dg.DagsterInstance.ephemeral()


def _open_instance(home: Path) -> dg.DagsterInstance:
    home.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(home)
    # Two processes that make the tables of a new history at once would fail.
    with FileLock(home / ".opening.lock"):
        _settle_storage(home / "dagster.yaml")
        if os.environ.get(POSTGRES_ENVIRONMENT):
            check_postgres()
        instance = dg.DagsterInstance.get()
        _settle_pool(instance)
    return instance


def explain_closed_history(error: BaseException) -> str:
    """What to do, if the permissions of the history's files caused ``error``; else nothing."""
    home = history_folder()
    for each in chain(error):
        path = Path(str(each.filename)) if isinstance(each, PermissionError) else None
        if (path is not None and home in (path, *path.parents)) or any(
            words in str(each) for words in CLOSED_DATABASE
        ):
            return (
                f"the history of runs in {path or home} cannot be written by this user: set the permissions of that "
                "folder and of what is in it, or DAGSTER_HOME to another folder"
            )
    return ""


def history_folder() -> Path:
    """Where the instance keeps its files: ``DAGSTER_HOME``, or ``.dagster`` in the current folder."""
    return Path(os.environ.get("DAGSTER_HOME") or ".dagster").expanduser().absolute()


def check_postgres() -> str:
    """Connect to the server of ``RETUNE_POSTGRES_URL``; returns host and database, for display.

    Raises:
        InstanceError: it refuses or does not answer; the password is not in the message.
    """
    import sqlalchemy as sa
    from sqlalchemy import exc

    url = os.environ[POSTGRES_ENVIRONMENT]
    if find_spec("dagster_postgres") is None:
        raise InstanceError(
            f"{POSTGRES_ENVIRONMENT} is set: pip install 'retune-embed[postgres]', or unset it"
        )
    if not url.startswith((POSTGRES_SCHEME, POSTGRES_DRIVER)):
        raise InstanceError(
            f"{POSTGRES_ENVIRONMENT}: must have the form postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        )
    url = url.replace(POSTGRES_SCHEME, POSTGRES_DRIVER, 1)
    os.environ[POSTGRES_ENVIRONMENT] = url  # for Dagster, in this process and in those it starts
    try:
        address = sa.make_url(url)
        sa.create_engine(address, connect_args={"connect_timeout": CONNECT_TIMEOUT_S}).connect().close()
    except exc.OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise InstanceError(f"the PostgreSQL server of {POSTGRES_ENVIRONMENT} refuses: {reason}") from None
    except (exc.SQLAlchemyError, ValueError) as error:
        raise InstanceError(
            f"{POSTGRES_ENVIRONMENT} is no usable address ({type(error).__name__}): write special characters of the "
            "password as %XX"
        ) from None
    return f"{address.host}/{address.database}"


def _settle_storage(config: Path) -> None:
    """Write into ``dagster.yaml`` where the history is. A storage that a user configured there stays."""
    text = (config if config.exists() else TEMPLATE).read_text("utf-8")
    storage, shared = (yaml.safe_load(text) or {}).get("storage"), bool(os.environ.get(POSTGRES_ENVIRONMENT))
    if shared and storage is None:
        text += yaml.safe_dump({"storage": POSTGRES_STORAGE})
        write_atomic(config, text)
    elif shared and storage != POSTGRES_STORAGE:
        raise InstanceError(
            f"{config} names a storage of its own: delete it there, or unset {POSTGRES_ENVIRONMENT}"
        )
    elif storage == POSTGRES_STORAGE and not shared:
        raise InstanceError(
            f"this project's history is on a PostgreSQL server: set {POSTGRES_ENVIRONMENT}, or delete `storage` from "
            f"{config} to begin one in files"
        )
    elif not config.exists():
        write_atomic(config, text)


def _settle_pool(instance: dg.DagsterInstance) -> None:
    """Make the accelerator's pool with as many slots as its limit says.

    Dagster makes a pool when a step first asks for it, and two steps that ask at once would each make a slot: from
    then on two would run at a time.
    """
    storage = instance.event_log_storage
    pool = storage.get_concurrency_info(GPU_POOL)
    if pool.using_default_limit and pool.slot_count != (pool.limit or 0):
        storage.initialize_concurrency_limit_to_default(GPU_POOL)


def workspace_file(instance: dg.DagsterInstance) -> Path:
    """A workspace with the one code location, by the name that ``workspace.yaml`` and ``dg`` use too: the state of
    sensors and schedules is stored under it."""
    path = Path(instance.root_directory) / "workspace.yaml"
    module = {"module_name": DEFINITIONS_MODULE, "location_name": CODE_LOCATION}
    path.write_text(yaml.safe_dump({"load_from": [{"python_module": module}]}), "utf-8")
    return path


def process_tag() -> str:
    """Identifies this process: host, pid and start time."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.0f}"


RUNNING = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])


def require_no_run(instance: dg.DagsterInstance) -> None:
    """Check that no run is going on: one that began before may use any version. Runs that were killed are ended.

    Raises:
        InstanceError: one is; the message names it.
    """
    end_dead_runs(instance)
    going_on = [run.run_id[:8] for run in instance.get_runs(RUNNING)]
    if going_on:
        raise InstanceError(
            f"run {', '.join(going_on)} is going on and may need what would be deleted: nothing was deleted. Try again "
            "once it has ended (`retune ui` shows it; terminate it there if its process is gone)"
        )


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Report runs as failed whose process on this host is gone (killed), and free their pool slots."""
    ended: list[str] = []
    for run in instance.get_runs(RUNNING):
        tag = run.tags.get(PROCESS_TAG)
        if tag and not _is_alive(tag):
            instance.report_run_failed(run, "its process was killed; finished steps are kept")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            ended.append(run.run_id)
    return ended


def _is_alive(tag: str) -> bool:
    host, pid, started = tag.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" == started
    except psutil.NoSuchProcess:
        return False
