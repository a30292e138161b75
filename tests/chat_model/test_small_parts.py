"""Consent, retries, the answer cache and the resource."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import dagster as dg
import pytest
from scripted_endpoint import ScriptedEndpoint

from resources.chat_model.cache import AnswerCache, answer_key
from resources.chat_model.config import ChatConfig
from resources.chat_model.retries import RequestFailure, delay_before, failure_of_status, retry_after
from resources.configurable import ChatModelResource
from resources.endpoints import endpoint_host, is_allowed

KEY = "nvapi-0123456789-secret"
REMOTE = "https://integrate.api.nvidia.com/v1"


@pytest.mark.parametrize(
    ("url", "approved", "allowed"),
    [
        ("http://127.0.0.1:8000/v1", [], True),
        ("http://127.8.9.10/v1", [], True),
        ("http://localhost:8000/v1", [], True),
        ("http://[::1]:8000/v1", [], True),
        ("http://0.0.0.0:8000/v1", [], False),
        ("http://10.0.0.7/v1", [], False),
        ("http://127.0.0.1.example.org/v1", [], False),
        ("http://localhost.example.org/v1", [], False),
        (REMOTE, [], False),
        (REMOTE, ["integrate.api.nvidia.com"], True),
        (REMOTE, ["Integrate.API.nvidia.com "], True),
        (REMOTE, ["api.nvidia.com", "nvidia.com"], False),
        ("http://host:8001/v1", ["host:8000"], False),
        ("http://host:8000/v1", ["host:8000"], True),
    ],
)
def test_who_needs_consent(url: str, approved: list[str], allowed: bool) -> None:
    assert is_allowed(url, False, approved) == allowed
    assert is_allowed(url, True, [])


@pytest.mark.parametrize(
    "url",
    [
        "integrate.api.nvidia.com/v1",
        "ftp://host/v1",
        "http://127.0.0.1@evil.example/v1",
        "http://127.0.0.1\\@evil.example/v1",
        "http://host/v1?key=abc",
        "http://host/v1#x",
        "http:///v1",
        "http://host:port/v1",
        "http://ho st/v1",
    ],
)
def test_urls_that_could_be_misread_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        endpoint_host(url)
    assert "abc" not in str(caught.value)


def test_retry_after_is_seconds_or_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "-3"}) == 0
    assert retry_after({"retry-after": soon}) == pytest.approx(30, abs=2)
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after": "86400"}) == 86400


@pytest.mark.parametrize(
    "value",
    [
        "86401",
        "9" * 5000,
        "1e2",
        "1e400",
        "inf",
        "nan",
        "1_0",
        "0x10",
        "٣",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Mon, 01 Jan 2024 00:00:00 +99999999999999",
        "Mon, 99 Jan 2024 00:00:00 GMT",
    ],
)
def test_a_retry_after_that_cannot_be_meant_counts_as_none(value: str) -> None:
    assert retry_after({"retry-after": value}) in (None, 0)


@pytest.mark.parametrize(
    ("status", "again", "full", "fatal"),
    [
        (400, False, False, False),
        (401, False, False, True),
        (404, False, False, True),
        (408, True, False, False),
        (422, False, False, False),
        (429, True, True, False),
        (500, True, False, False),
        (503, True, True, False),
        (504, True, False, False),
        (307, False, False, True),
    ],
)
def test_what_a_status_means(status: int, again: bool, full: bool, fatal: bool) -> None:
    failure = failure_of_status(status, "body", {}, "MY_KEY")
    assert (failure.again, failure.full, failure.fatal) == (again, full, fatal)


def test_delays_grow_are_spread_and_add_to_what_was_asked_for() -> None:
    for attempt, longest in ((1, 1), (2, 2), (4, 8), (20, 60)):
        delays = [delay_before(attempt, RequestFailure("x", again=True)) for _ in range(200)]
        assert longest / 10 <= min(delays) < longest / 2 < max(delays) <= longest
    assert 30 <= delay_before(1, RequestFailure("x", again=True, retry_after_s=30)) <= 31


WRITER = """
import os, signal, sys
from pathlib import Path
from resources.chat_model.cache import AnswerCache, answer_key
cache = AnswerCache(Path(sys.argv[1]))
for number in range(50):
    cache.put(answer_key(number), {"number": number})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_answer_survives_kill_9_the_moment_it_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.sqlite"
    reader = AnswerCache(path)
    assert subprocess.run([sys.executable, "-c", WRITER, str(path)]).returncode == -9
    assert len(reader) == 50
    assert reader.get(answer_key(49)) == {"number": 49}
    assert reader.get(answer_key(50)) is None
    reader.close()


def test_a_cache_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.mkdir()
    with pytest.raises(OSError, match="move it away to start anew"):
        AnswerCache(path)


def fill(path: Path) -> None:
    cache = AnswerCache(path)
    for number in range(200):
        cache.put(answer_key(number), {"text": f"answer {number} é " * 20})
    cache.close()  # also writes the log into the file


def answers(cache: AnswerCache) -> list[int]:
    """The numbers whose answers come back; each as it was kept."""
    found = {number: cache.get(answer_key(number)) for number in range(200)}
    kept = {number: answer for number, answer in found.items() if answer is not None}
    assert kept == {number: {"text": f"answer {number} é " * 20} for number in kept}
    return list(kept)


def replace(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:-4096] = bytes(len(content) - 8192)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [replace, cut, zero], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("first", ["read", "write"])
def test_a_damaged_cache_is_set_aside_and_made_again(
    damage: Callable[[Path], None], first: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "answers.sqlite"
    fill(path)
    damage(path)
    damaged = path.read_bytes()
    cache = AnswerCache(path)
    if first == "read":
        assert len(answers(cache)) < 200
    for number in range(200):
        cache.put(answer_key(number), {"text": f"answer {number} é " * 20})
    assert len(answers(cache)) == len(cache) == 200
    cache.close()
    assert "is damaged" in caplog.text
    assert "renamed to answers.sqlite.damaged" in caplog.text
    aside = tmp_path / "answers.sqlite.damaged"
    assert damage is not replace or aside.read_bytes() == damaged


@pytest.mark.parametrize("seed", range(20))
def test_no_damage_changes_an_answer(seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "answers.sqlite"
    fill(path)
    rng = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 10, 200])):
        content[rng.randrange(100, len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    cache = AnswerCache(path)
    answers(cache)
    for number in range(200):
        cache.put(answer_key(number), {"text": f"answer {number} é " * 20})
    answers(cache)


def test_a_flipped_bit_of_an_answer_costs_that_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "answers.sqlite"
    fill(path)
    content = path.read_bytes()
    assert content.count(b"answer 77 ") == 20
    path.write_bytes(content.replace(b"answer 77 ", b"answer 76 ", 1))
    cache = AnswerCache(path)
    assert sorted({*range(200)} - {*answers(cache)}) == [77]
    assert "a damaged answer is asked for again" in caplog.text
    cache.put(answer_key(77), {"text": "answer 77 é " * 20})
    assert len(answers(cache)) == 200


def test_answers_of_an_earlier_version_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with sqlite3.connect(path) as former:
        former.execute("CREATE TABLE answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID")
        former.execute("INSERT INTO answers VALUES (?, ?)", (answer_key(1), '{"text": "é"}'))
        former.execute("INSERT INTO answers VALUES (?, ?)", (answer_key(2), '{"text": "cut'))
    former.close()
    cache = AnswerCache(path)
    assert cache.get(answer_key(1)) == {"text": "é"}
    assert cache.get(answer_key(2)) is None
    cache.put(answer_key(1), {"text": "new"})
    assert cache.get(answer_key(1)) == {"text": "new"}
    assert len(cache) == 2


# ---- the resource ------------------------------------------------------------------------------------------


def config(base_url: str, folder: Path) -> ChatConfig:
    return ChatConfig(base_url, folder / "a.sqlite", api_key_env="MY_KEY", approved_endpoints=("a", "b"))


@pytest.mark.slow
def test_the_resource_gives_the_same_config_and_the_key_of_the_environment(
    endpoint: ScriptedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    wanted = config(endpoint.base_url, tmp_path)

    @dg.asset
    def answer(chat: ChatModelResource) -> dg.MaterializeResult:
        import asyncio

        assert KEY not in repr(chat) + str(chat)

        async def ask() -> str:
            async with chat.get().session(1) as session:
                return (await session.ask("m", [{"role": "user", "content": "a"}])).text

        assert chat.get().config == wanted
        return dg.MaterializeResult(metadata={"text": asyncio.run(ask())})

    @dg.asset(deps=[answer])
    def broken(chat: ChatModelResource) -> None:
        raise ValueError(f"something about {chat} and {chat.get()}")

    resources = {"chat": ChatModelResource.from_config(wanted)}
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        result = dg.materialize(
            [answer, broken], instance=instance, resources=resources, raise_on_error=False
        )
        events = repr(result.all_events) + repr(list(instance.all_logs(result.run_id)))
    assert not result.success
    assert "something about ChatModelResource" in events
    assert f"Bearer {KEY}" in str(endpoint.stats()["headers"])
    assert KEY not in events + repr(resources)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(KEY.encode() not in path.read_bytes() for path in files)


def test_without_the_variable_there_is_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    resource = ChatModelResource.from_config(config(REMOTE, tmp_path))
    assert "key not set" in repr(resource.get())
