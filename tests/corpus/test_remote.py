"""Documents at fsspec URLs and on the hub are read like a folder's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import huggingface_hub
import pytest

from assets_pkg.config.sections.corpus import CorpusSettings
from assets_pkg.corpus.sources import CorpusError, read_corpus, source_fingerprint
from storage.artifacts import Corpus
from tests.s3.server import S3Server

TEXT = "# A title\n\nA sentence that is long enough to be kept as a document of the corpus."


def settings(url: str) -> CorpusSettings:
    return CorpusSettings(
        corpus_dir=url,
        file_extensions=[".md", ""],
        min_text_length=10,
        num_files=None,
        metadata_fields=None,
        text_columns=None,
        title_column=None,
        id_column=None,
        max_file_seconds=120,
        max_file_memory_mb=2000,
        reader_processes=1,
    )


def read(url: str, folder: Path) -> tuple[list[str], dict[str, Any]]:
    folder.mkdir()
    read_corpus(settings(url), folder)
    documents = [document.doc_id for document in Corpus(folder, "raw_corpus", "v").documents()]
    return documents, json.loads((folder / "summary.json").read_text())


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.pipe("/docs/a.md", TEXT.encode())
    system.pipe("/docs/deep/b", TEXT.encode())
    system.pipe("/docs/c.pdf", b"%PDF")
    yield system
    system.rm("/docs", recursive=True)


def test_a_remote_folder_is_read_and_its_changes_show_in_the_fingerprint(memory: Any, tmp_path: Path) -> None:
    documents, summary = read("memory://docs", tmp_path / "one")
    assert documents == ["a.md", "deep/b"]
    assert summary["fingerprint"] == source_fingerprint(settings("memory://docs"))
    memory.pipe("/docs/a.md", (TEXT + " More.").encode())
    assert summary["fingerprint"] != source_fingerprint(settings("memory://docs"))


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_links_out_of_a_folder_at_a_url_are_skipped_as_in_a_plain_folder(tmp_path: Path, scheme: str) -> None:
    folder, outside = tmp_path / "docs", tmp_path / "outside"
    for each, name in ((folder, "a.md"), (folder / "deep", "b.md"), (outside, "secret.md")):
        each.mkdir()
        (each / name).write_text(TEXT)
    (folder / "link.md").symlink_to(outside / "secret.md")
    (folder / "linked").symlink_to(outside)
    (folder / "deep" / "loop").symlink_to(folder)
    url = f"{scheme}://{folder}"
    documents, summary = read(url, tmp_path / "one")
    assert documents == ["a.md", "deep/b.md"]
    assert summary["skipped_by_reason"] == {"link out of the corpus": 2}
    assert summary["fingerprint"] == source_fingerprint(settings(url))
    (folder / "a.md").write_text(TEXT + " More.")
    assert summary["fingerprint"] != source_fingerprint(settings(url))


def test_a_bucket_is_read_and_every_change_shows_in_one_process(s3: S3Server, tmp_path: Path) -> None:
    bucket, client = s3.new_bucket(), s3.client()

    def put(name: str, text: str) -> None:
        client.put_object(Bucket=bucket, Key=name, Body=text.encode())

    put("docs/a.md", TEXT)
    put("docs/deep/b.md", TEXT)
    url = f"s3://{bucket}/docs"
    documents, summary = read(url, tmp_path / "one")
    assert documents == ["a.md", "deep/b.md"]
    assert summary["fingerprint"] == source_fingerprint(settings(url))
    put("docs/a.md", TEXT)  # the same again
    assert summary["fingerprint"] == source_fingerprint(settings(url))
    put("docs/a.md", TEXT + " More.")
    changed = source_fingerprint(settings(url))
    put("docs/c.md", TEXT)
    added = source_fingerprint(settings(url))
    client.delete_object(Bucket=bucket, Key="docs/c.md")
    assert source_fingerprint(settings(url)) == changed
    assert len({summary["fingerprint"], changed, added}) == 3
    with pytest.raises(CorpusError, match="no such folder"):
        source_fingerprint(settings("s3://no-such-bucket/docs"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("memory://nowhere", "no such folder"),
        ("nosuch://bucket/docs", "nosuch"),
        ("hf://only-an-owner", "hf://owner/name@revision/path"),
    ],
)
def test_what_cannot_be_read_says_why(url: str, words: str) -> None:
    with pytest.raises(CorpusError, match=words):
        source_fingerprint(settings(url))


def test_a_hub_folder_is_downloaded_at_its_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = tmp_path / "datasets--owner--name"
    snapshot = cache / "snapshots" / "a1"
    (snapshot / "sample" / "docs").mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "blobs" / "b2").write_text(TEXT)
    (snapshot / "sample" / "docs" / "x.md").symlink_to(
        "../../../../blobs/b2"
    )  # as the hub's client keeps files
    asked: list[tuple[Any, ...]] = []

    def download(repo: str, *, repo_type: str, revision: str, allow_patterns: str) -> str:
        asked.append((repo, repo_type, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    commit = "1c0d1856f3fb595b2dda98d4b61061fa6d782d51"
    documents, summary = read(f"hf://owner/name@{commit}/sample/docs", tmp_path / "one")
    assert documents == ["x.md"]
    assert asked == [("owner/name", "dataset", commit, "sample/docs/**")]
    assert summary["fingerprint"] == source_fingerprint(settings(f"hf://owner/name@{commit}/sample/docs"))
