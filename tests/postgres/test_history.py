"""The history of runs on a real PostgreSQL server: shared by processes, and its password kept out of everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from assets_pkg.orchestration.instance import InstanceError, open_instance
from tests.command.conftest import Workplace, make_workplace
from tests.command.graphql_answers import answers_of_the_ui
from tests.compute.accelerator_lock_steps import run_at_once
from tests.postgres.server import PostgresServer, running_postgres


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, server: PostgresServer) -> Workplace:
    made = make_workplace(tmp_path / "place", tiny_model, documents=8)
    return replace(made, extra={"RETUNE_POSTGRES_URL": server.url})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RETUNE_POSTGRES_URL", raising=False)
    return tmp_path / "home"


def test_a_run_of_the_command_is_in_the_shared_history_and_in_the_ui(
    place: Workplace, server: PostgresServer
) -> None:
    code, output = place.retune("run", "--to", "sdg")
    assert code == 0, output
    assert server.ask("SELECT status FROM runs") == [("SUCCESS",)]
    assert not list((place.home / ".dagster").rglob("*.db"))
    code, output = place.retune("run", "--to", "sdg")
    assert "nothing is stale" in output

    answers = answers_of_the_ui(place.home, place.environment)
    assert [run["status"] for run in json.loads(answers)["runs"]] == ["SUCCESS"]
    assert server.password not in answers

    for command in (["info"], ["doctor"]):
        _, said = place.retune(*command)
        assert server.password not in output + said
    assert "on the PostgreSQL server 127.0.0.1/postgres" in said
    holders = [path for path in place.home.rglob("*") if path.is_file() and _holds(path, server.password)]
    assert holders == []
    assert "env: RETUNE_POSTGRES_URL" in (place.home / ".dagster" / "dagster.yaml").read_text()


def _holds(path: Path, password: str) -> bool:
    return password.encode() in path.read_bytes()


def test_what_the_ui_gives_its_processes_as_an_argument_has_no_password(
    home: Path, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETUNE_POSTGRES_URL", server.url)
    with open_instance() as instance:
        argument = dg.serialize_value(instance.get_ref())  # `--instance-ref` of `dagster dev`
    assert "PostgresEventLogStorage" in argument
    assert server.password not in argument


def test_two_processes_take_turns_on_the_accelerator(tmp_path: Path, server: PostgresServer) -> None:
    run_at_once(tmp_path, {"RETUNE_POSTGRES_URL": server.url})


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (
            "postgresql://retune:hush@127.0.0.1:{port}/postgres",
            'password authentication failed for user "retune"',
        ),
        ("postgresql://retune:hush@127.0.0.1:9/postgres", "Connection refused"),
        ("postgresql://retune:hush@127.0.0.1:hush/postgres", "no usable address"),
        ("mysql://retune:hush@127.0.0.1/x", "must have the form postgresql://"),
    ],
)
def test_a_server_that_cannot_be_used_says_why_without_the_password(
    home: Path, server: PostgresServer, monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    monkeypatch.setenv("RETUNE_POSTGRES_URL", address.format(port=server.port))
    with pytest.raises(InstanceError, match=words) as raised:
        open_instance()
    assert "RETUNE_POSTGRES_URL" in str(raised.value)
    assert "hush" not in str(raised.value)


def test_the_file_and_the_environment_must_agree(
    home: Path, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    (home / "dagster.yaml").write_text("# mine\ntelemetry: {enabled: false}\n")
    monkeypatch.setenv("RETUNE_POSTGRES_URL", server.url)
    open_instance().dispose()
    assert (home / "dagster.yaml").read_text().startswith("# mine\n")
    monkeypatch.delenv("RETUNE_POSTGRES_URL")
    with pytest.raises(InstanceError, match="set RETUNE_POSTGRES_URL, or delete `storage`"):
        open_instance()
    monkeypatch.setenv("RETUNE_POSTGRES_URL", server.url)
    (home / "dagster.yaml").write_text("storage: {sqlite: {base_dir: /tmp/another}}\n")
    with pytest.raises(InstanceError, match="names a storage of its own"):
        open_instance()
