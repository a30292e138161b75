"""The whole graph on artifacts in an S3 bucket: killed while it publishes, finished by the same command, and used from
a second machine with the same history."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from storage.remote_store import RemoteArtifactStore
from tests.command.conftest import Workplace, make_workplace
from tests.s3.server import Hold, Request, S3Server, network_to

RUN = ("run", "--to", "reindex")


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    return s3.new_bucket()


@dataclass(frozen=True)
class Story:
    """A run that was killed while it sent the checkpoint, and the same command after that.

    Attributes:
        sent: the checkpoint's objects in the bucket after the kill.
        visible: versions that another machine then saw, by asset.
        killed, finished: what the two commands printed.
    """

    workplace: Workplace
    sent: set[str]
    visible: dict[str, list[str]]
    killed: str
    finished: str


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, s3: S3Server, bucket: str
) -> Iterator[Story]:
    folder, url = tmp_path_factory.mktemp("remote"), f"s3://{bucket}/team"
    workplace = make_workplace(folder / "project", tiny_model, documents=16, root=url)
    workplace = replace(workplace, extra={"RETUNE_CACHE": str(folder / "laptop")})

    def sends_checkpoint(request: Request) -> bool:
        return request.method == "PUT" and "/artifacts/checkpoint/" in request.path

    with network_to(s3) as network:
        network.meddle = hold = Hold(sends_checkpoint, passing=3)
        disturbed = replace(workplace, extra={**workplace.extra, "AWS_ENDPOINT_URL": network.url})
        command = disturbed.start_forked(*RUN)
        assert hold.reached.wait(120)
        killed = command.kill()
        sent = s3.objects(bucket, "team/artifacts/checkpoint/")
        deadline = time.monotonic() + 30
        while not sent and time.monotonic() < deadline:  # what passed may still be on its way
            sent = s3.objects(bucket, "team/artifacts/checkpoint/")
        hold.released.set()
    other = RemoteArtifactStore(url, folder / "other")
    visible = {asset: other.versions(asset) for asset in other.assets()}
    code, finished = workplace.retune(*RUN)
    assert code == 0, finished
    yield Story(workplace, set(sent), visible, killed, finished)
    workplace.retune("deploy", "--stop")


@pytest.fixture(scope="module")
def laptop(story: Story) -> Workplace:
    """A workplace after the whole graph, everything it made in the bucket."""
    return story.workplace


@pytest.fixture(scope="module")
def server(laptop: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Another machine on the same history: it has nothing of the artifacts yet."""
    return replace(laptop, extra={"RETUNE_CACHE": str(tmp_path_factory.mktemp("server"))})


def test_a_kill_while_publishing_shows_nothing_half_made_and_the_same_command_finishes(
    story: Story,
) -> None:
    assert story.sent
    assert not any(name.endswith("manifest.json") for name in story.sent)
    assert story.visible.pop("checkpoint") == []
    assert {asset: len(versions) for asset, versions in story.visible.items()} == dict.fromkeys(
        (
            "raw_corpus",
            "passages",
            "base_model",
            "synthetic_qa",
            "eval_set",
            "training_set",
            "mined_train_set",
        ),
        1,
    )
    assert "had been killed" in story.finished
    assert re.search(r"checkpoint \(\d+ of \d+\) plan:", " ".join(story.killed.split()))
    assert "plan:" not in story.finished  # what was half sent is not trained again


def test_all_is_in_the_bucket_as_the_manifests_say(laptop: Workplace, s3: S3Server, bucket: str) -> None:
    objects = s3.objects(bucket)
    manifests = {
        name: json.loads(data)
        for name, data in objects.items()
        if name.startswith("team/artifacts/") and name.endswith("/manifest.json")
    }
    assets = {manifest["asset"] for manifest in manifests.values()}
    assert {"raw_corpus", "passages", "checkpoint", "eval_metrics", "onnx_model", "vector_index"} <= assets
    for name_of_manifest, manifest in manifests.items():
        folder = name_of_manifest.removesuffix("manifest.json") + manifest["content"]
        for name, entry in manifest["files"].items():
            assert hashlib.sha256(objects[f"{folder}/{name}"]).hexdigest() == entry["sha256"]
    assert "team/links/promoted_model" in objects


def test_another_machine_goes_on_from_there(laptop: Workplace, server: Workplace) -> None:
    code, output = server.retune("run", "--to", "eval")
    assert code == 0, output
    assert "nothing is stale" in output
    code, output = server.retune("finetune", "temperature=0.06")
    assert code == 0, output
    code, output = server.retune("reindex", "-d")
    assert "nothing is stale" in output


def test_search_answers_the_same_on_both_machines(laptop: Workplace, server: Workplace) -> None:
    question = ["search", "How the kiln handles glaze and firing", "--json", "-k", "3"]
    answers = [workplace.retune(*question) for workplace in (laptop, server)]
    assert answers[0][0] == 0, answers[0][1]
    assert answers[0] == answers[1]


def test_doctor_and_info_show_where_the_artifacts_are(laptop: Workplace, bucket: str) -> None:
    _, output = laptop.retune("doctor")
    assert re.search(rf"artifacts +s3://{bucket}/team can be read and written", output)
    code, output = laptop.retune("info")
    assert code == 0
    assert f"s3://{bucket}/team, this machine's copy in {laptop.extra['RETUNE_CACHE']}" in output


def test_gc_keeps_what_is_linked_and_current(server: Workplace, s3: S3Server, bucket: str) -> None:
    def versions() -> set[str]:
        names = s3.objects(bucket, "team/artifacts/checkpoint/")
        return {name.split("/")[3] for name in names}

    before = versions()
    assert len(before) == 2
    code, output = server.retune("gc", "--keep", "1")
    assert code == 0, output
    assert versions() == before  # one is promoted, the other one current
    assert server.retune("search", "the pump", "-k", "1")[0] == 0


@pytest.mark.parametrize(
    ("root", "extra", "words"),
    [
        ("s3://no-such-bucket-here/team", {}, "s3://no-such-bucket-here/team: no such bucket or folder"),
        ("s3://x/team", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "s3://x/team cannot be reached"),
    ],
)
def test_what_cannot_be_used_is_one_plain_error_and_nothing_is_recorded(
    laptop: Workplace, tmp_path: Path, root: str, extra: dict[str, str], words: str
) -> None:
    here = {"RETUNE_CACHE": str(tmp_path / "cache"), "DAGSTER_HOME": str(tmp_path / "home"), **extra}
    workplace = replace(laptop, extra=here)
    code, output = workplace.retune("run", f"artifact_root={root}")
    assert code == 1
    assert words in output
    assert "Traceback" not in output
    code, output = workplace.retune("run", "-d")
    assert "9 of 9 would run" in output or "10 of 10 would run" in output, output


def test_a_key_in_the_root_is_refused_and_not_shown(laptop: Workplace) -> None:
    code, output = laptop.retune("info", "artifact_root=s3://me:hush@bucket/x")
    assert code == 2
    assert "hush" not in output
