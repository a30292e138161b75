"""What was damaged after it was published is found, and what was not is not read again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from storage import verification
from storage.artifact_store import ArtifactError, ArtifactStore
from storage.remote_store import RemoteArtifactStore
from tests.storage.notes import Note, key, writer

LONG_AGO = 1_700_000_000


def flip(path: Path) -> None:
    """Change one byte, and neither the size nor the permissions."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    path.chmod(mode)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed, as if every change were long ago."""
    names: list[str] = []
    original = verification.digest_file

    def counted(path: Path) -> str:
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(verification, "digest_file", counted)
    monkeypatch.setattr(verification, "SETTLED_NS", -(10**12))
    return names


def test_a_damaged_file_of_the_same_size_is_named(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    for name in ("note.txt", "log.txt"):
        note = store.build(Note, key(name), writer(f"the note of {name}", []))
        store.verify(note)
        flip(note.path / name)
        assert store.get(Note, "notes", note.version) == note  # sizes only
        for anew in (False, True):
            with pytest.raises(
                ArtifactError, match=rf"notes {note.version}: {name} is not what was published"
            ):
                store.verify(note, anew=anew)


def test_a_file_is_hashed_again_only_if_it_changed(tmp_path: Path, hashed: list[str]) -> None:
    store = ArtifactStore(tmp_path)
    note = store.build(Note, key(), writer("hello", []))
    for _ in range(3):
        store.verify(note)
        ArtifactStore(tmp_path).verify(note)
    assert sorted(hashed) == ["log.txt", "note.txt"]
    store.verify(note, anew=True)
    assert sorted(hashed) == ["log.txt", "log.txt", "note.txt", "note.txt"]
    hashed.clear()
    os.utime(note.path / "note.txt", (LONG_AGO, LONG_AGO))
    store.verify(note)
    store.verify(note)
    assert hashed == ["note.txt"]


def test_a_change_whose_time_was_set_back_is_found(tmp_path: Path, hashed: list[str]) -> None:
    store = ArtifactStore(tmp_path)
    note = store.build(Note, key(), writer("hello", []))
    path = note.path / "note.txt"
    store.verify(note)
    found = path.stat()
    flip(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(ArtifactError, match=r"note\.txt is not what was published"):
        store.verify(note)


def test_a_file_that_just_changed_is_not_taken_as_known(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    note = store.build(Note, key(), writer("hello", []))
    store.verify(note)
    assert not list((tmp_path / ".cache").rglob("*.json"))


@pytest.mark.parametrize("text", ["", "[]", "null", '{"note.txt": 1}', '{"note.txt": ["x"]}'])
def test_a_damaged_record_costs_time_only(tmp_path: Path, hashed: list[str], text: str) -> None:
    store = ArtifactStore(tmp_path)
    note = store.build(Note, key(), writer("hello", []))
    store.verify(note)
    [record] = (tmp_path / ".cache").rglob("*.json")
    record.write_text(text)
    hashed.clear()
    store.verify(note)
    assert "note.txt" in hashed
    store.remove("notes", note.version)
    assert not record.exists()


def test_a_manifest_that_was_changed_with_its_file_is_found(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    note = store.build(Note, key("1"), writer("hello", []))
    other = store.build(Note, key("2"), writer("jello", []))
    manifest = note.path / "manifest.json"
    changed = json.loads((other.path / "manifest.json").read_text()) | {"version": note.version}
    manifest.chmod(0o644)
    manifest.write_text(json.dumps(changed))
    flip(note.path / "note.txt")
    with pytest.raises(ArtifactError, match=r"manifest\.json is not what was published"):
        store.verify(note)


def test_building_it_again_replaces_what_is_damaged(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    note = store.build(Note, key("1"), writer("hello", []))
    flip(note.path / "note.txt")
    again = store.build(Note, key("2"), writer("hello", []))
    assert again == note
    assert (note.path / "note.txt").read_text() == "hello"
    store.verify(again)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/remote"


def test_damage_on_this_machine_is_fetched_again(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = RemoteArtifactStore(url, tmp_path / "one")
    note = store.build(Note, key(), writer("hello", []))
    flip(note.path / "note.txt")
    store.verify(note)
    assert (note.path / "note.txt").read_text() == "hello"
    assert f"note.txt in {note.path} is damaged: fetching it again from {url}" in caplog.text


def test_damage_on_this_machine_is_not_sent(tmp_path: Path, url: str) -> None:
    store, calls = RemoteArtifactStore(url, tmp_path / "one"), []
    note = store.build(Note, key(), writer("hello", calls))
    for name in ("artifacts", "keys"):
        (tmp_path / "remote" / name).rename(tmp_path / f"lost-{name}")
    flip(note.path / "note.txt")
    assert store.build(Note, key(), writer("hello", calls)) == note
    assert calls == ["hello", "hello"]
    there = RemoteArtifactStore(url, tmp_path / "two").get(Note, "notes", note.version)
    assert (there.path / "note.txt").read_text() == "hello"


def test_a_damaged_file_of_an_interrupted_fetch_is_fetched_again(tmp_path: Path, url: str) -> None:
    made = RemoteArtifactStore(url, tmp_path / "one").build(Note, key(), writer("hello", []))
    left = tmp_path / "two" / ".work" / ".fetched" / "notes" / made.version
    left.mkdir(parents=True)
    (left / "note.txt").write_text("jello")
    there = RemoteArtifactStore(url, tmp_path / "two").get(Note, "notes", made.version)
    assert (there.path / "note.txt").read_text() == "hello"
