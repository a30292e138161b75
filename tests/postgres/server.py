"""A real PostgreSQL server for the tests, private to them, run by a user who is not root."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from tests.loopback import free_port

NEEDED = ("initdb", "postgres")
USERS = ("postgres", "nobody")


@dataclass(frozen=True)
class PostgresServer:
    """A running server with one empty database."""

    port: int
    password: str

    @property
    def url(self) -> str:
        return f"postgresql://retune:{self.password}@127.0.0.1:{self.port}/postgres"

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query, by a client that is not the product's."""
        with psycopg2.connect(self.url) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server that asks for a password."""
    programs = _programs()
    password = secrets.token_hex(16)
    folder = Path(tempfile.mkdtemp(prefix="retune-postgres-"))
    (folder / "password").write_text(password)
    who = _other_user(folder)
    port = free_port()
    make = [programs["initdb"], "-D", folder / "data", "-U", "retune", "--auth=scram-sha-256"]
    make += [f"--pwfile={folder / 'password'}", "--no-sync", "-E", "UTF8", "--locale=C"]
    subprocess.run(make, check=True, cwd=folder, stdout=subprocess.DEVNULL, **who)
    command = [programs["postgres"], "-D", folder / "data", "-p", str(port), "-k", folder]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, **who)
    server = PostgresServer(port, password)
    try:
        _await(server, process, folder / "log")
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # a fast shutdown: clients are sent away
        process.wait(60)
        shutil.rmtree(folder)


def _programs() -> dict[str, Path]:
    found = _find()
    if found is None:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        quiet = ["-o", "Dpkg::Use-Pty=0", "-qq"]
        subprocess.run(["apt-get", "update", *quiet], check=True, env=environment, stdout=subprocess.DEVNULL)
        install = ["apt-get", "install", "-y", "--no-install-recommends", *quiet, "postgresql"]
        subprocess.run(install, check=True, env=environment, stdout=subprocess.DEVNULL)
        found = _find()
    assert found is not None, "no PostgreSQL server could be installed"
    return found


def _find() -> dict[str, Path] | None:
    """Debian keeps the server's programs out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ["PATH"], *map(str, folders)])
    found = {name: shutil.which(name, path=path) for name in NEEDED}
    return {name: Path(place) for name, place in found.items() if place} if all(found.values()) else None


def _other_user(folder: Path) -> dict[str, Any]:
    """The server refuses to run as root."""
    if os.getuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = next(known[name] for name in USERS if name in known)
    for path in (folder, *folder.iterdir()):
        os.chown(path, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _await(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.ask("SELECT 1")
            return
        except psycopg2.OperationalError:
            time.sleep(0.1)
    raise AssertionError("the PostgreSQL server did not start:\n" + log.read_text()[-2000:])
