"""What is read again to see whether a corpus changed, and that no change is missed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets_pkg.build import build_definitions
from assets_pkg.config.profile_files import load_profile
from assets_pkg.corpus import file_digests
from assets_pkg.corpus.sources import read_corpus, source_fingerprint

from .test_folder import LONG, settings

DAY_NS = 24 * 3600 * 10**9
OTHER = LONG.replace("wings", "flaps")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "corpus"
    (made / "sub").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        (made / name).write_text(f"{LONG} {name}")
    (made / "metadata.jsonl").write_text('{"file_name": "a.txt", "year": 2020}\n')
    return made


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose bytes were hashed."""
    names: list[str] = []
    real = hashlib.file_digest

    def counted(stream: Any, *arguments: Any) -> Any:
        names.append(Path(stream.name).name)
        return real(stream, *arguments)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return names


@pytest.fixture
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files were written long before they are hashed."""
    real = time.time_ns
    monkeypatch.setattr(file_digests.time, "time_ns", lambda: real() + DAY_NS)


def expected(folder: Path) -> str:
    """The fingerprint by hand: the first 16 hex digits of SHA-256 of the sorted names and digests as JSON."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    pairs = sorted(
        [path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()] for path in files
    )
    return hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()[:16]


@pytest.mark.usefixtures("tomorrow")
def test_no_unchanged_file_is_read_again(folder: Path, tmp_path: Path, hashed: list[str]) -> None:
    cache, source = tmp_path / "cache", settings(folder)
    assert source_fingerprint(source, cache) == expected(folder)
    assert sorted(hashed) == ["a.txt", "b.txt", "c.txt", "metadata.jsonl"]
    hashed.clear()
    assert source_fingerprint(source, cache) == expected(folder)
    assert hashed == []
    (folder / "b.txt").write_text(OTHER)
    assert source_fingerprint(source, cache) == expected(folder)
    assert hashed == ["b.txt"]
    hashed.clear()
    (folder / "b.txt").unlink()
    (folder / "new.txt").write_text(OTHER)
    assert source_fingerprint(source, cache) == expected(folder)
    assert hashed == ["new.txt"]
    out = tmp_path / "out"
    out.mkdir()
    read_corpus(source, out)
    assert json.loads((out / "summary.json").read_text())["fingerprint"] == source_fingerprint(source, cache)


def rewrite(path: Path) -> None:
    path.write_text(path.read_text().replace("wings", "flaps"))


def replace(path: Path) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(path.read_text().replace("wings", "flaps"))
    beside.replace(path)


@pytest.mark.usefixtures("tomorrow")
@pytest.mark.parametrize("change", [rewrite, replace])
def test_a_change_with_the_old_size_and_time_is_noticed(
    folder: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    cache, path = tmp_path / "cache", folder / "a.txt"
    before, status = source_fingerprint(settings(folder), cache), path.stat()
    change(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = source_fingerprint(settings(folder), cache)
    assert (after, after != before) == (expected(folder), True)


def test_a_file_rewritten_within_a_time_stamps_resolution_is_noticed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system whose time stamps have a resolution of a day and which reuses inodes."""
    real = file_digests._stamp

    def coarse(found: os.stat_result) -> list[int]:
        size, *times, inode, device = real(found)
        return [size, *(each // DAY_NS for each in times), inode, device]

    monkeypatch.setattr(file_digests, "_stamp", coarse)
    cache = tmp_path / "cache"
    assert source_fingerprint(settings(folder), cache) == expected(folder)
    rewrite(folder / "a.txt")
    assert source_fingerprint(settings(folder), cache) == expected(folder)


@pytest.mark.usefixtures("tomorrow")
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"a.txt": 3}', b'{"a.txt": []}', b"\xff\x00"])
def test_a_damaged_cache_is_computed_anew(folder: Path, tmp_path: Path, damage: bytes) -> None:
    cache = tmp_path / "cache"
    source_fingerprint(settings(folder), cache)
    [file] = (cache / file_digests.DIGESTS).iterdir()
    file.write_bytes(damage)
    assert source_fingerprint(settings(folder), cache) == expected(folder)
    assert set(json.loads(file.read_bytes())) == {"a.txt", "b.txt", "sub/c.txt", "metadata.jsonl"}


@pytest.mark.usefixtures("tomorrow")
def test_a_cache_that_cannot_be_written_is_done_without(folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder would be")
    assert source_fingerprint(settings(folder), blocked) == expected(folder)


@pytest.mark.usefixtures("tomorrow")
def test_a_file_that_can_no_longer_be_read_is_noticed(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = source_fingerprint(settings(folder), cache)
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(folder / "nowhere")
    assert source_fingerprint(settings(folder), cache) not in {before, ""}
    assert source_fingerprint(settings(folder), cache) == source_fingerprint(settings(folder))


@pytest.mark.usefixtures("tomorrow")
def test_a_tick_of_the_corpus_sensor_reads_only_what_changed(
    folder: Path, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "output"
    overrides = [f"artifact_root={root}", f"corpus.corpus_dir={folder}", "automation.corpus_quiet_seconds=0"]
    profile = load_profile("laptop", overrides)
    defs = build_definitions(profile)
    sensor = defs.resolve_sensor_def("corpus_when_documents_change")
    with dg.DagsterInstance.ephemeral() as instance:
        read = dg.AssetMaterialization("raw_corpus", metadata={"fingerprint": expected(folder)})
        instance.report_runless_asset_event(read)

        def tick() -> Any:
            hashed.clear()
            with dg.build_sensor_context(instance=instance, definitions=defs) as context:
                return sensor(context)

        assert tick().skip_message == "no document changed"
        assert len(hashed) == 4
        assert tick().skip_message == "no document changed"
        assert hashed == []
        rewrite(folder / "b.txt")
        assert tick().run_key.startswith(f"corpus-{expected(folder)}-")
        assert hashed == ["b.txt"]
    assert (root / ".cache").is_dir()
