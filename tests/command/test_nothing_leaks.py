"""A whole run with a proxy and keys in the environment: the proxy sees nothing, and the keys are nowhere afterwards."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.command.conftest import Workplace, make_workplace
from tests.command.graphql_answers import answers_of_the_ui
from tests.image_text.vision_stub import Vision, vision_model
from tests.loopback import serving
from tests.test_http_client import PROXIES, Recorder

CANARY = "c4nary-0f-a-key-that-nobody-may-see"
KEYS = (
    "RETUNE_API_KEY",
    "NVIDIA_API_KEY",
    "OPENAI_API_KEY",
    "HF_TOKEN",
    "WANDB_API_KEY",
    "MILVUS_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
COMMANDS = (
    ("run", "--to", "reindex"),
    ("eval_nim",),
    ("reindex", "reindex.encoder=nim"),
    ("promote", "--show"),
    ("doctor",),
    ("deploy", "--logs"),
    ("prep", "sdg_input_path=nowhere.jsonl"),
)
"""The last one fails."""

CAPTIONS = ("captioner=vlm", "num_pairs_limit=4", "image_text_models=[all-minilm-l6-v2]")


@dataclass(frozen=True)
class Ran:
    home: Path
    codes: list[int]
    printed: str
    arguments: set[str]
    proxied: list[object]
    alerts: list[object]
    captioned: int
    shown: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Ran]:
    place = make_workplace(tmp_path_factory.mktemp("leaks"), tiny_model, documents=16)
    with serving(Recorder()) as proxy, serving(Recorder()) as hook, watched_arguments() as arguments:
        proxies = {each: proxy.url for name in PROXIES for each in (name, name.lower())}
        keys = {name: f"{CANARY}-{name.lower()}" for name in KEYS}
        webhook = {"RETUNE_ALERT_WEBHOOK": f"{hook.url}/{CANARY}"}
        place = Workplace(
            place.home, place.port, extra={**proxies, **keys, **webhook, "NO_PROXY": "", "no_proxy": ""}
        )
        with vision_model(Vision()) as vision:
            captions = ("image-text", f"caption_base_url={vision.url}", *CAPTIONS)
            outcomes = [place.retune(*command) for command in (captions, *COMMANDS)]
        place.retune("deploy", "--stop")
        yield Ran(
            place.home,
            [code for code, _ in outcomes],
            "\n".join(output for _, output in outcomes),
            arguments,
            list(proxy.seen),
            list(hook.seen),
            len(vision.asked),
            answers_of_the_ui(place.home, place.environment),
        )


@contextmanager
def watched_arguments() -> Iterator[set[str]]:
    """The command lines of all processes that are seen until the end of the block."""
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            for process in psutil.process_iter(["cmdline"]):
                seen.update(process.info["cmdline"] or [])

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        ended.set()
        watching.join()


def test_the_commands_ran(ran: Ran) -> None:
    assert ran.codes == [0, 0, 0, 0, 0, 0, 0, 1], ran.printed
    assert ran.captioned == 4


def test_a_proxy_of_the_environment_sees_nothing(ran: Ran) -> None:
    assert ran.proxied == []


def test_no_key_is_printed_or_an_argument(ran: Ran) -> None:
    assert CANARY not in ran.printed
    assert not [each for each in ran.arguments if CANARY in each]


def test_no_key_is_in_what_the_ui_is_answered_of_runs_that_succeeded_and_failed(ran: Ran) -> None:
    answers = json.loads(ran.shown)
    assert {run["status"] for run in answers["runs"]} == {"SUCCESS", "FAILURE"}
    assert "chat_model" in {each["name"] for each in answers["resources"]}
    assert CANARY not in ran.shown


def test_no_key_is_in_a_file_that_others_may_read(ran: Ran) -> None:
    found = []
    for folder, _, names in os.walk(ran.home):
        for path in (Path(folder, name) for name in names):
            if path.is_symlink() or not path.is_file():
                continue
            others = stat.S_IMODE(path.stat().st_mode) & 0o077
            if others and CANARY.encode() in path.read_bytes():
                found.append(str(path.relative_to(ran.home)))
    assert found == []
