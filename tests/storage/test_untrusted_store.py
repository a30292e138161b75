"""A store that others write to: what it names stays inside it, and nothing outside is read, written or deleted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.artifact_store import ArtifactError, ArtifactStore
from storage.manifest import check_link, read_manifest, safe_name, safe_part
from storage.remote_store import RemoteArtifactStore
from tests.storage.notes import Note, key, writer

OUTSIDE = ["../x", "a/../../x", "/etc/x", "..", ".", "", "a//b", "./a", "a/", "a\0b"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_outside_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name inside the version"):
        safe_name(name)
    with pytest.raises(ArtifactError, match="is not the name of an asset or of a version"):
        safe_part(name)


@pytest.mark.parametrize("name", ["a", "a/b.txt", "..a", "a..b/c", "ü/日本 .bin", "a\\b", "a\udc80"])
def test_a_name_inside_its_folder_is_kept(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name", [*OUTSIDE, "artifacts/n/v", "keys/n/k", ".work/n", ".store-id", "stage5_deploy/x"]
)
def test_a_link_has_a_name_of_a_stage(name: str) -> None:
    with pytest.raises(ArtifactError, match="link "):
        check_link(name, "artifacts/notes/v/note.txt")


@pytest.mark.parametrize(
    "target", [*OUTSIDE, "artifacts", "artifacts/notes", "keys/notes/v", "artifacts/../../x/y"]
)
def test_a_link_leads_to_a_version(target: str) -> None:
    assert check_link("stage/current", "artifacts/notes/v/note.txt") == ("notes", "v")
    with pytest.raises(ArtifactError, match="link "):
        check_link("stage/current", target)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/remote"


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads(path.read_text())
    change(manifest)
    path.chmod(0o644)
    path.write_text(json.dumps(manifest))


def _renamed(name: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"].pop("note.txt")

    return change


MANIFESTS: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (_renamed("../../../../escaped.txt"), "is not a name inside the version"),
    (_renamed("/tmp/escaped.txt"), "is not a name inside the version"),
    (lambda manifest: manifest.update(version="../../.."), "is the manifest of"),
    (lambda manifest: manifest.update(asset="../../.."), "is the manifest of"),
    (lambda manifest: manifest.update(content="../../../secret"), "content: String should match pattern"),
    (lambda manifest: manifest.update(content="0123456789abcdef"), "content is not the digest of its files"),
    (lambda manifest: manifest.pop("content"), "content is not the digest of its files"),
    (lambda manifest: manifest["files"]["note.txt"].update(bytes=-1), "files.note.txt.bytes"),
    (lambda manifest: manifest["files"]["note.txt"].update(sha256="no"), "files.note.txt.sha256"),
    (lambda manifest: manifest.update(files=[]), "files: Input should be"),
]


@pytest.mark.parametrize(("change", "message"), MANIFESTS)
def test_a_manifest_at_a_url_that_is_not_its_versions_is_refused(
    url: str, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    made = RemoteArtifactStore(url, tmp_path / "one").build(Note, key(), writer("hello", []))
    rewrite(tmp_path / "remote" / "artifacts" / "notes" / made.version / "manifest.json", change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtifactError, match=message):
        RemoteArtifactStore(url, tmp_path / "two").get(Note, "notes", made.version)
    assert not (tmp_path / "escaped.txt").exists()
    assert {path for path in tmp_path.rglob("*") if path.is_file()} <= set(before)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, "\ufeff{}", '{"files": {}}'])
def test_a_manifest_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"^there/manifest\.json: "):
        read_manifest(text, "notes", "v", "there/manifest.json")


@pytest.mark.parametrize(
    "target", ["../../outside", "/outside", "artifacts/../../../outside/x", "artifacts", ""]
)
def test_a_link_at_a_url_that_leads_out_of_it_is_refused(url: str, tmp_path: Path, target: str) -> None:
    one = RemoteArtifactStore(url, tmp_path / "one")
    one.link("stage/current", one.build(Note, key(), writer("hello", [])).path)
    (tmp_path / "remote" / "links" / "stage" / "current").write_text(target)
    two = RemoteArtifactStore(url, tmp_path / "two")
    for read in (two.linked, lambda: two.resolve("stage/current"), lambda: one.resolve("stage/current")):
        with pytest.raises(ArtifactError, match=rf"{url}: link .*: delete {url}/links/stage/current"):
            read()
    assert not (tmp_path / "two" / "stage" / "current").is_symlink()


def test_a_link_at_a_url_does_not_reach_through_another(url: str, tmp_path: Path) -> None:
    one = RemoteArtifactStore(url, tmp_path / "one")
    made = one.build(Note, key(), writer("hello", []))
    one.link("stage/current", made.path)
    links = tmp_path / "remote" / "links" / "stage"
    target = (links / "current").read_text()
    two = RemoteArtifactStore(url, tmp_path / "two")
    two.resolve("stage/current")
    (links / "current").unlink()
    (links / "current").mkdir()
    (links / "current" / "note.txt").write_text(target)
    with pytest.raises(ArtifactError, match="lies below another link"):
        two.linked()
    assert (two.get(Note, "notes", made.version).path / "note.txt").read_text() == "hello"


@pytest.mark.parametrize("version", ["../../../victim", "/victim", ".."])
def test_a_key_that_leads_out_of_the_store_is_not_followed(tmp_path: Path, url: str, version: str) -> None:
    store, calls = ArtifactStore(tmp_path / "here"), []
    made = store.build(Note, key(), writer("hello", calls))
    (store.root / "keys" / "notes" / key().digest).write_text(version)
    assert store.build(Note, key(), writer("hello", calls)) == made
    assert calls == ["hello", "hello"]
    remote = RemoteArtifactStore(url, tmp_path / "one")
    remote.build(Note, key(), writer("hello", []))
    (tmp_path / "remote" / "keys" / "notes" / key().digest).write_text(version)
    with pytest.raises(ArtifactError, match="is not the name of an asset or of a version"):
        remote.find(Note, key())
    victim = tmp_path / "victim" / "file"
    victim.parent.mkdir()
    victim.write_text("mine")
    for each in (store, remote):
        with pytest.raises(ArtifactError, match="is not the name"):
            each.remove("notes", version)
    assert victim.read_text() == "mine"


def test_files_of_a_folder_store_that_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    secret = tmp_path / "secret.txt"
    secret.write_text("hello")
    linked = store.build(Note, key("1"), writer("hello", []))
    (linked.path / "note.txt").unlink()
    (linked.path / "note.txt").symlink_to(secret)
    named = store.build(Note, key("2"), writer("other", []))
    rewrite(named.path / "manifest.json", _renamed(os.path.relpath(secret, named.path)))
    for made in (linked, named):
        with pytest.raises(ArtifactError, match="is damaged"):
            store.get(Note, "notes", made.version)
        assert not store.has("notes", made.version)
    assert store.read("notes", linked.version, "note.txt") is None


def test_a_link_in_a_folder_store_that_leads_out_of_it_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    made = store.build(Note, key(), writer("hello", []))
    store.link("stage/current", made.path)
    link = store.root / "stage" / "current"
    for target in (
        tmp_path,
        store.root / "keys" / "notes" / key().digest,
        store.root / "artifacts" / "notes",
    ):
        link.unlink()
        link.symlink_to(target)
        with pytest.raises(ArtifactError, match="which is not a version"):
            store.resolve("stage/current")
        assert store.linked() == set()
        with pytest.raises(ArtifactError, match="link 'stage/other'"):
            store.link("stage/other", target)
