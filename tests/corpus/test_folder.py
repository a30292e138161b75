"""Reading a folder: what counts, what is skipped and named, and the fingerprint."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.corpus import CorpusSettings
from assets_pkg.corpus.sources import CorpusError, read_corpus, seconds_since_change, source_fingerprint
from storage.artifacts import Corpus

LONG = "A sentence about wings that is long enough to be kept as text."


def settings(folder: Path | str, **changes: object) -> CorpusSettings:
    values = {
        "corpus_dir": str(folder),
        "file_extensions": [".txt", ".md", ".text", ""],
        "min_text_length": 50,
        "num_files": None,
        "metadata_fields": None,
        "reader_processes": 1,
    }
    return CorpusSettings.model_validate(defaults() | values | changes)


@cache
def defaults() -> dict[str, object]:
    """The laptop profile's settings of the corpus."""
    return load_profile("laptop", []).corpus.model_dump()


def read(source: CorpusSettings, out: Path) -> Corpus:
    out.mkdir(exist_ok=True)
    read_corpus(source, out)
    return Corpus(out, "raw_corpus", "v")


def skipped(out: Path) -> dict[str, str]:
    """Documents that were left out; without files that are no documents."""
    rows = Corpus(out, "raw_corpus", "v").skipped()
    return {row["doc_id"]: row["reason"] for row in rows if not row["reason"].startswith("not read: ")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "corpus"
    (made / "sub" / "deep").mkdir(parents=True)
    (made / "b.txt").write_text(LONG)
    (made / "sub" / "a.MD").write_text(f"# Wings\n\n{LONG}")
    (made / "sub" / "deep" / "NOTES").write_text(LONG)
    (made / "code.py").write_text(LONG)
    (made / ".git").mkdir()
    (made / ".git" / "HEAD").write_text(LONG)
    return made


def test_recursive_by_extension_and_in_order(folder: Path, tmp_path: Path) -> None:
    documents = list(read(settings(folder), tmp_path / "out").documents())
    assert [(d.doc_id, d.title) for d in documents] == [
        ("b.txt", "b"),
        ("sub/a.MD", "Wings"),
        ("sub/deep/NOTES", "NOTES"),
    ]
    assert documents[0].text == LONG


def test_the_default_decides_what_the_four_extensions_decided(folder: Path) -> None:
    by_default = CorpusSettings.model_validate(defaults() | {"corpus_dir": str(folder)})
    assert by_default.file_extensions is None
    assert by_default.decisive() == {
        "corpus_dir": str(folder),
        "file_extensions": [".txt", ".md", ".text", ""],
        "min_text_length": 50,
        "num_files": None,
        "metadata_fields": None,
    }
    assert source_fingerprint(by_default) != source_fingerprint(settings(folder))
    (folder / "code.py").unlink()
    assert source_fingerprint(by_default) == source_fingerprint(settings(folder))


def test_bom_and_line_ends_are_normalised(folder: Path, tmp_path: Path) -> None:
    (folder / "b.txt").write_bytes(b"\xef\xbb\xbf# Title\r\n\r\n" + LONG.encode() + b"\r\nEnd.\r")
    first = next(read(settings(folder), tmp_path / "out").documents())
    assert (first.title, first.text) == ("Title", f"# Title\n\n{LONG}\nEnd.\n")


@pytest.mark.slow
def test_unusable_files_are_named_with_the_reason(folder: Path, tmp_path: Path) -> None:
    (folder / "latin.txt").write_bytes("Flügel".encode("latin-1") * 20)
    (folder / "utf16.txt").write_text(LONG, "utf-16")
    (folder / "image").write_bytes(b"\x89PNG\0\0" * 50)
    (folder / "late.txt").write_bytes(b"x" * 9000 + b"\0")
    (folder / "short.txt").write_text("  too little  ")
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe")
    out = tmp_path / "out"
    corpus = read(settings(folder), out)
    reasons = skipped(out)
    texts = {document.doc_id: document.text for document in corpus.documents()}
    assert len(texts) == 5
    assert (texts["latin.txt"], texts["utf16.txt"]) == ("Flügel" * 20, LONG)
    assert [row["doc_id"] for row in corpus.warnings()] == ["latin.txt"]
    assert set(reasons) == {"image", "late.txt", "short.txt", "gone.txt", "pipe"}
    assert reasons["image"] == "picture: it is a picture: only text is read"
    assert reasons["short.txt"] == "too short: 10 characters, corpus.min_text_length is 50"
    assert corpus.summary()["skipped_by_reason"] == {
        "binary": 1,
        "picture": 1,
        "too short": 1,
        "unreadable": 2,
    }


def test_files_of_other_kinds_are_counted(folder: Path, tmp_path: Path) -> None:
    for name in ("one.PDF", "two.pdf", ".hidden.pdf", "sheet.xlsx"):
        (folder / name).write_bytes(b"{}")
    corpus = read(settings(folder), tmp_path / "out")
    summary = corpus.summary()
    assert corpus.skipped()[-1] == {
        "doc_id": "two.pdf",
        "reason": "not read: its extension is not in corpus.file_extensions",
    }
    assert summary["other_files_by_extension"] == {".pdf": 2, ".py": 1, ".xlsx": 1}
    assert (summary["other_files"], summary["skipped"]) == (4, 0)


def test_a_name_that_is_not_utf8_is_skipped(folder: Path, tmp_path: Path) -> None:
    (folder / os.fsdecode(b"bad\xff.txt")).write_text(LONG)
    read(settings(folder), tmp_path / "out")
    assert skipped(tmp_path / "out") == {r"bad\udcff.txt": "unreadable: its name is not UTF-8"}
    assert source_fingerprint(settings(folder)) == Corpus(tmp_path / "out", "", "").summary()["fingerprint"]


def test_link_loops_end_and_linked_folders_are_read_once(folder: Path, tmp_path: Path) -> None:
    inside = folder / ".kept"
    inside.mkdir()
    (inside / "o.txt").write_text(LONG)
    (inside / "back").symlink_to(folder)
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "alink").symlink_to(inside)
    (folder / "sub" / "again").symlink_to(inside)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    names = [document.doc_id for document in read(settings(folder), tmp_path / "out").documents()]
    assert names == ["alink/o.txt", "b.txt", "sub/a.MD", "sub/deep/NOTES"]
    assert set(skipped(tmp_path / "out")) == {"self.txt"}


def test_links_out_of_the_folder_are_skipped_and_not_read(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(LONG)
    (outside / "pipe.txt").symlink_to("/dev/zero")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "zero.txt").symlink_to("/dev/zero")
    (folder / "chain.txt").symlink_to(folder / "link.txt")
    (folder / "other.d").symlink_to(outside)
    (folder / "table.csv").symlink_to(outside / "secret.txt")  # of an extension that is not asked for
    (tmp_path / "corpus2").symlink_to(folder)  # the corpus itself may be reached by a link
    for number, name in enumerate(("corpus", "corpus2")):
        corpus = read(settings(tmp_path / name), tmp_path / f"out{number}")
        assert [each.doc_id for each in corpus.documents()] == ["b.txt", "sub/a.MD", "sub/deep/NOTES"]
        found = skipped(tmp_path / f"out{number}")
        assert set(found) == {"link.txt", "zero.txt", "chain.txt", "other.d"}
        assert all(reason.startswith("link out of the corpus: put the files") for reason in found.values())
        assert source_fingerprint(settings(tmp_path / name)) == corpus.summary()["fingerprint"]
    (folder / "metadata.csv").symlink_to(outside / "secret.txt")
    with pytest.raises(CorpusError, match=r"metadata\.csv: a link out of the corpus"):
        read(settings(folder), tmp_path / "out")


def test_num_files_takes_the_first_by_name(folder: Path, tmp_path: Path) -> None:
    corpus = read(settings(folder, num_files=2), tmp_path / "out")
    assert [document.doc_id for document in corpus.documents()] == ["b.txt", "sub/a.MD"]


def test_fingerprint_follows_names_and_bytes_of_what_is_read(folder: Path, tmp_path: Path) -> None:
    before = read(settings(folder), tmp_path / "out").summary()["fingerprint"]
    assert source_fingerprint(settings(folder)) == before
    (folder / "code.py").write_text("other")
    os.utime(folder / "b.txt", (1, 1))
    assert source_fingerprint(settings(folder)) == before
    (folder / "b.txt").write_text(LONG.replace("wings", "flaps"))
    changed = source_fingerprint(settings(folder))
    assert changed != before
    (folder / "b.txt").rename(folder / "c.txt")
    assert source_fingerprint(settings(folder)) not in {before, changed}


def test_reading_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        read(settings(folder), tmp_path / name)
    one, two = (tmp_path / name / "documents.parquet" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_one_file_is_a_corpus_of_its_own(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "another.txt", "year": 2020}\n', "utf-8")
    corpus = read(settings(folder / "b.txt"), tmp_path / "out")
    assert [document.doc_id for document in corpus.documents()] == ["b.txt"]
    assert corpus.summary()["fingerprint"] == source_fingerprint(settings(folder / "b.txt"))
    assert corpus.skipped() == []


def test_errors_say_what_was_found(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        read(settings(folder / "missing"), tmp_path / "out")
    with pytest.raises(CorpusError, match=r"extensions \.rst \(corpus\.file_extensions\)"):
        read(settings(folder, file_extensions=[".rst"]), tmp_path / "out")
    with pytest.raises(CorpusError, match=r"none of its 3 files can be used: b\.txt \(too short: "):
        read(settings(folder, min_text_length=1000), tmp_path / "out")


def test_other_documentation_is_refused_plainly(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"'other' is no public module.*pydoc://stdlib reads all"):
        read(settings("pydoc://json,other"), tmp_path / "out")
    with pytest.raises(CorpusError, match="'_io' is no public module"):
        source_fingerprint(settings("pydoc://_io"))


def test_a_date_in_the_future_does_not_hide_when_the_corpus_last_changed(tmp_path: Path) -> None:
    now = time.time()
    for name, moment in (("a.txt", now - 1000), ("b.txt", now + 10**8), ("c.txt", now - 5000)):
        (tmp_path / name).write_text("text")
        os.utime(tmp_path / name, (moment, moment))
    os.utime(tmp_path, (now - 3000, now - 3000))
    quiet = seconds_since_change(settings(tmp_path))
    assert 1000 <= quiet < 1000 + time.time() - now + 1
    os.utime(tmp_path / "c.txt", (now + 30, now + 30))  # a file server whose clock is ahead
    assert seconds_since_change(settings(tmp_path)) == 0
