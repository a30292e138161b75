"""A store at a URL: other machines, kills on the way, a bad network, refusals, and damage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.artifact_store import ArtifactError, ArtifactStore
from storage.digests import digest_file
from storage.errors import TransientError
from storage.remote import RemoteError, RemoteUnreachable, check_url
from storage.remote_store import RemoteArtifactStore, open_remote, open_store
from tests.s3.server import (
    Answer,
    Hold,
    Network,
    Request,
    S3Server,
    environment_through,
    network_to,
    require_keys,
    running_s3,
)
from tests.small_disk import small_disk
from tests.storage.notes import Note, key, writer

PUBLISH = """
    import sys
    from storage.artifact_store import BuildKey
    from storage.artifacts import Artifact
    from storage.remote_store import open_store

    def produce(folder):
        print("made", flush=True)
        for number in range(12):
            (folder / f"part-{number:02}.txt").write_text(f"part {number}" * 1000)

    made = open_store(sys.argv[1]).build(Artifact, BuildKey("notes", "1", {}), produce)
    print("published", made.version, flush=True)
"""


@pytest.fixture
def url(s3: S3Server) -> str:
    return f"s3://{s3.new_bucket()}/team/retune"


@pytest.fixture
def network(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """All that this process asks of the server goes over it."""
    with network_to(s3) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between


def machine(url: str, folder: Path) -> ArtifactStore:
    return RemoteArtifactStore(url, folder)


def bucket_of(url: str) -> str:
    return url.split("/")[2]


def start(script: str, *arguments: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_what_one_machine_made_another_one_finds(url: str, tmp_path: Path) -> None:
    one, two = machine(url, tmp_path / "one"), machine(url, tmp_path / "two")
    first = one.build(Note, key("1"), writer("first", []))
    second = one.build(Note, key("2"), writer("second", []))
    one.link("stage/current", first.path)
    calls: list[str] = []
    there = two.build(Note, key("1"), writer("never", calls))
    assert calls == []
    assert there.path.is_relative_to(tmp_path / "two")
    assert {path.name: path.read_text() for path in there.path.glob("*.txt")} == {
        "note.txt": "first",
        "log.txt": "call 1",
    }
    # The names are there as soon as the machine looks, and follow what other machines do.
    assert (tmp_path / "two" / "stage" / "current" / "note.txt").read_text() == "first"
    one.link("stage/current", second.path)
    moved = two.resolve("stage/current")
    assert moved is not None
    assert (moved / "note.txt").read_text() == "second"
    assert (tmp_path / "two" / "stage" / "current" / "note.txt").read_text() == "second"
    one.unlink("stage/current")
    assert two.resolve("stage/current") is None


def test_every_object_is_what_the_manifest_says(url: str, s3: S3Server, tmp_path: Path) -> None:
    made = machine(url, tmp_path).build(Note, key(), writer("hello", []))
    objects = s3.objects(bucket_of(url), "team/retune/")
    folder = f"team/retune/artifacts/notes/{made.version}"
    manifest = json.loads(objects[f"{folder}/manifest.json"])
    assert set(manifest["files"]) == {"note.txt", "log.txt"}
    for name, entry in manifest["files"].items():
        data = objects[f"{folder}/{manifest['content']}/{name}"]
        assert len(data) == entry["bytes"]
        assert digest_file(made.path / name) == entry["sha256"]
        assert data == (made.path / name).read_bytes()
    assert objects[f"team/retune/keys/notes/{key().digest}"].decode() == made.version


def test_a_kill_while_sending_leaves_nothing_visible_and_the_next_try_sends_the_rest(
    url: str, s3: S3Server, tmp_path: Path
) -> None:
    with network_to(s3) as network:
        environment = {**environment_through(s3, network), "RETUNE_CACHE": str(tmp_path / "one")}
        hold = Hold(lambda request: request.method == "PUT" and "part-" in request.path, passing=5)
        network.meddle = hold
        process = start(PUBLISH, url, environment=environment)
        assert hold.reached.wait(60)
        process.send_signal(signal.SIGKILL)
        answers, _ = process.communicate()
        hold.released.set()
        assert answers == "made\n"

        other = machine(url, tmp_path / "two")
        assert other.versions("notes") == []
        assert other.find(Note, key()) is None
        sent = {name for name in s3.objects(bucket_of(url)) if "part-" in name}
        assert 0 < len(sent) < 12

        network.requests.clear()
        network.meddle = lambda request: None
        process = start(PUBLISH, url, environment=environment)
        answers, _ = process.communicate(timeout=120)
        assert process.returncode == 0, answers
        assert "made" not in answers  # what was made before the kill was kept
        assert len(network.of("PUT", "part-")) == 12 - len(sent)
    version = answers.split()[-1]
    whole = other.get(Note, "notes", version)
    assert [path.read_text() for path in sorted(whole.path.glob("part-*"))] == [
        f"part {number}" * 1000 for number in range(12)
    ]


def test_a_kill_while_fetching_goes_on_inside_the_file(url: str, s3: S3Server, tmp_path: Path) -> None:
    block = 1 << 16

    def large(folder: Path) -> None:
        (folder / "note.txt").write_bytes(os.urandom(10 * block))

    made = machine(url, tmp_path / "one").build(Note, key(), large)
    script = f"""
        import sys
        from storage import remote
        from storage.artifacts import Artifact
        from storage.remote_store import open_store

        remote.BLOCK = {block}
        open_store(sys.argv[1]).get(Artifact, "notes", sys.argv[2])
    """
    with network_to(s3) as network:
        environment = {**environment_through(s3, network), "RETUNE_CACHE": str(tmp_path / "two")}
        network.meddle = hold = Hold(
            lambda request: "note.txt" in request.path and bool(request.range), passing=3
        )
        process = start(script, url, made.version, environment=environment)
        assert hold.reached.wait(60)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        hold.released.set()
        assert list((tmp_path / "two").rglob("artifacts/notes/*/note.txt")) == []
        network.requests.clear()
        network.meddle = lambda request: None
        process = start(script, url, made.version, environment=environment)
        answers, _ = process.communicate(timeout=120)
        assert process.returncode == 0, answers
        asked = [
            int(each.range.removeprefix("bytes=").split("-")[0]) for each in network.of("GET", "note.txt")
        ]
        assert min(asked) >= 2 * block
    fetched = list((tmp_path / "two").rglob("artifacts/notes/*/note.txt"))
    assert [path.read_bytes() for path in fetched] == [(made.path / "note.txt").read_bytes()]


def test_two_machines_that_publish_one_version_at_once_leave_it_whole(url: str, tmp_path: Path) -> None:
    one, two = machine(url, tmp_path / "one"), machine(url, tmp_path / "two")

    def made_by(name: str) -> Callable[[Path], None]:
        def produce(folder: Path) -> None:
            (folder / "note.txt").write_text("equal")
            (folder / "log.txt").write_text(f"by {name}")

        return produce

    def second_machine(done: int, total: int, unit: str, **figures: float) -> None:
        two.build(Note, key(), made_by("two"))

    one.progress = second_machine  # heard between the first one's files and its manifest
    first = one.build(Note, key(), made_by("one"))
    third = machine(url, tmp_path / "three").get(Note, "notes", first.version)
    assert (third.path / "note.txt").read_text() == "equal"
    assert (third.path / "log.txt").read_text() in ("by one", "by two")


def test_a_shaky_network_costs_time_only(url: str, network: Network, tmp_path: Path) -> None:
    troubles = [
        Answer(503, "SlowDown"),
        Answer(0),
        Answer(500, "InternalError"),
        Answer(503, "ServiceUnavailable"),
    ]

    def shaky(request: Request) -> Answer | None:
        return troubles.pop() if request.method == "PUT" and "txt" in request.path and troubles else None

    network.meddle = shaky
    made = machine(url, tmp_path / "one").build(Note, key(), writer("hello", []))
    assert troubles == []
    assert (machine(url, tmp_path / "two").get(Note, "notes", made.version).path / "note.txt").exists()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            Answer(400, "ExpiredToken"),
            "access refused (ExpiredToken): credentials are missing, wrong or expired",
        ),
        (Answer(403, "AccessDenied"), "access refused (AccessDenied)"),
        (Answer(507, "XMinioStorageFull"), "is full (XMinioStorageFull): free space there"),
    ],
)
def test_a_refusal_in_the_middle_is_one_plain_error_and_loses_nothing(
    url: str, network: Network, tmp_path: Path, answer: Answer, words: str
) -> None:
    network.meddle = lambda request: answer if request.method == "PUT" and "txt" in request.path else None
    store, calls = machine(url, tmp_path / "one"), []
    with pytest.raises(RemoteError) as raised:
        store.build(Note, key(), writer("hello", calls))
    assert f"{url}" in str(raised.value)
    assert words in str(raised.value)
    assert raised.value.__cause__ is None
    assert store.versions("notes") == []
    network.meddle = lambda request: None
    made = store.build(Note, key(), writer("hello", calls))
    assert store.versions("notes") == [made.version]
    assert calls == ["hello"]


def test_a_store_that_may_not_be_written_is_known_before_anything_is_made(
    url: str, network: Network, tmp_path: Path
) -> None:
    machine(url, tmp_path / "one").check()
    network.meddle = lambda request: Answer(403, "AccessDenied") if request.method == "PUT" else None
    calls: list[str] = []
    with pytest.raises(RemoteError, match="access refused"):
        machine(url, tmp_path / "one").build(Note, key(), writer("hello", calls))
    assert calls == []


@pytest.mark.slow
def test_a_missing_bucket_and_wrong_keys_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_s3(tmp_path) as anyone:
        anyone.client().create_bucket(Bucket="good")
        server = require_keys(anyone)
        attempts = {
            "good": (server.key, server.secret),
            "good/signed": (server.key, "wrong-secret"),
            "good/known": ("AKIANOBODY", "some-secret"),
            "missing": (server.key, server.secret),
        }
        answers: dict[str, str] = {}
        for bucket, (name, secret) in attempts.items():
            for variable, value in S3Server(server.url, name, secret).environment.items():
                monkeypatch.setenv(variable, value)
            try:
                machine(f"s3://{bucket}", tmp_path / "here").check()
                answers[bucket] = "fine"
            except ArtifactError as error:
                answers[bucket] = f"{'transient: ' if isinstance(error, TransientError) else ''}{error}"
        assert answers["good"] == "fine"
        assert answers["good/signed"].startswith("s3://good/signed: access refused (SignatureDoesNotMatch)")
        assert answers["good/known"].startswith("s3://good/known: access refused (InvalidAccessKeyId)")
        assert answers["missing"].startswith("s3://missing: no such bucket or folder (NoSuchBucket)")
        secrets = {part for each in attempts.values() for part in each}
        assert not any(secret in text for text in answers.values() for secret in secrets)


@pytest.mark.slow
def test_an_address_where_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: S3Server
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        RemoteUnreachable, match=r"s3://nobody/there cannot be reached \(EndpointConnectionError\)"
    ):
        machine("s3://nobody/there", tmp_path).check()


def test_damage_here_is_mended_and_damage_there_is_named(url: str, s3: S3Server, tmp_path: Path) -> None:
    one = machine(url, tmp_path / "one")
    made = one.build(Note, key(), writer("hello", []))
    (made.path / "note.txt").unlink()
    (made.path / "note.txt").write_text("")
    assert (one.get(Note, "notes", made.version).path / "note.txt").read_text() == "hello"
    name = next(name for name in s3.objects(bucket_of(url)) if name.endswith("note.txt"))
    for damage in (b"jello", None):
        if damage is None:
            s3.client().delete_object(Bucket=bucket_of(url), Key=name)
        else:
            s3.client().put_object(Bucket=bucket_of(url), Key=name, Body=damage)
        with pytest.raises(
            RemoteError, match=rf"note.txt is missing or damaged: delete {url}/artifacts/notes"
        ):
            machine(url, tmp_path / "two").get(Note, "notes", made.version)
        assert list((tmp_path / "two").glob("artifacts/notes/*")) == []


def test_a_full_disk_of_this_machine_names_its_folder(url: str, tmp_path: Path) -> None:
    content = os.urandom(400_000)
    made = machine(url, tmp_path / "one").build(
        Note, key(), lambda folder: (folder / "note.txt").write_bytes(content)
    )
    with small_disk(tmp_path / "two", "256k") as disk:
        two = machine(url, disk.folder)
        with pytest.raises(
            ArtifactError, match=rf"disk full while fetching notes: .*{disk.folder}.*RETUNE_CACHE"
        ):
            two.get(Note, "notes", made.version)
        disk.grow("4m")
        assert (two.get(Note, "notes", made.version).path / "note.txt").read_bytes() == content


def test_a_full_disk_at_the_url_is_named_and_what_was_made_is_kept_here(tmp_path: Path) -> None:
    calls: list[str] = []

    def produce(folder: Path) -> None:
        calls.append("made")
        (folder / "note.txt").write_bytes(bytes(400_000))

    with small_disk(tmp_path / "there", "256k") as disk:
        store = machine(f"file://{disk.folder}", tmp_path / "here")
        with pytest.raises(RemoteError, match=rf"file://{disk.folder} is full .*free space there"):
            store.build(Note, key(), produce)
        assert store.versions("notes") == []
        disk.grow("4m")
        made = store.build(Note, key(), produce)
        assert store.versions("notes") == [made.version]
    assert calls == ["made"]


@pytest.mark.parametrize(
    "bad", ["s3://key:secret@bucket/x", "sftp://user:secret@host/x", "https://host/x?token=secret", "s3://"]
)
def test_a_url_with_a_key_in_it_is_refused_without_showing_it(bad: str) -> None:
    with pytest.raises(ArtifactError, match="artifact_root = ") as raised:
        check_url(bad)
    assert "secret" not in str(raised.value)


def test_a_scheme_without_a_client_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="its client is not installed"):
        machine("gs://bucket/x", tmp_path).check()


def test_another_thing_than_a_store_is_not_written_into(url: str, s3: S3Server, tmp_path: Path) -> None:
    s3.client().put_object(
        Bucket=bucket_of(url), Key="team/retune/retune-store.json", Body=b'{"schema_version": 9}'
    )
    with pytest.raises(RemoteError, match="made by another version of Retune"):
        open_store(url).versions("notes")
    open_remote.cache_clear()
