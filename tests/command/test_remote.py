"""The command on artifacts in an S3 bucket: the same results, from several machines with one history."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.command.conftest import Workplace, make_workplace
from tests.s3.server import S3Server


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    return s3.new_bucket()


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, bucket: str) -> Workplace:
    """A workplace after a run and a re-index, everything it made in the bucket."""
    folder = tmp_path_factory.mktemp("remote")
    place = make_workplace(folder / "place", tiny_model, documents=24, root=f"s3://{bucket}/team")
    place = replace(place, extra={"RETUNE_CACHE": str(folder / "laptop")})
    for command in (["run", "--to", "eval"], ["reindex"]):
        code, output = place.retune(*command)
        assert code == 0, output
    return place


@pytest.fixture(scope="module")
def server(laptop: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Another machine on the same history: it has nothing of the artifacts yet."""
    return replace(laptop, extra={"RETUNE_CACHE": str(tmp_path_factory.mktemp("server"))})


def test_all_is_in_the_bucket_as_the_manifests_say(laptop: Workplace, s3: S3Server, bucket: str) -> None:
    objects = s3.objects(bucket)
    manifests = {
        name: json.loads(data)
        for name, data in objects.items()
        if name.startswith("team/artifacts/") and name.endswith("/manifest.json")
    }
    assets = {manifest["asset"] for manifest in manifests.values()}
    assert {"raw_corpus", "passages", "checkpoint", "eval_metrics", "vector_index"} <= assets
    for place, manifest in manifests.items():
        folder = place.removesuffix("manifest.json") + manifest["content"]
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
    answers = [place.retune(*question) for place in (laptop, server)]
    assert answers[0][0] == 0, answers[0][1]
    assert answers[0] == answers[1]


def test_doctor_and_info_tell_where_the_artifacts_are(laptop: Workplace, bucket: str) -> None:
    _, output = laptop.retune("doctor")
    assert f"artifacts: s3://{bucket}/team can be read and written" in output
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
    place = replace(laptop, extra=here)
    for command in (["run", f"artifact_root={root}"], ["search", "pump", f"artifact_root={root}"]):
        code, output = place.retune(*command)
        assert code == 1
        assert words in output
        assert "Traceback" not in output
    code, output = place.retune("run", "-d")
    assert "9 of 9 would run" in output or "10 of 10 would run" in output, output


def test_a_key_in_the_root_is_refused_and_not_shown(laptop: Workplace) -> None:
    code, output = laptop.retune("info", "artifact_root=s3://me:hush@bucket/x")
    assert code == 2
    assert "hush" not in output
