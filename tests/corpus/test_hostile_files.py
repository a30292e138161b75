"""Files that are damaged, or made to do harm: each is named with its reason, within its limits, and the run goes on."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
import zipfile
from pathlib import Path

import psutil
import pytest

from assets_pkg.corpus.readers.file_document import FileDocument, ReadError, ReadOptions
from assets_pkg.corpus.readers.pool import ReaderPool, ReadLimits, items_in
from assets_pkg.corpus.sources import read_corpus, source_fingerprint
from storage.artifacts import Corpus

from .office_files import write_csv, write_html, write_picture_pdf, write_xlsx
from .test_folder import LONG, settings

pytestmark = pytest.mark.slow

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
MEMORY_MB = 300
SECONDS = 20


def zipped(path: Path, entries: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def write_locked_pdf(path: Path) -> None:
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(path), encrypt="secret")
    canvas.drawString(100, 500, LONG)
    canvas.save()


def long_pdf(pages: int, *, kids: str = "") -> bytes:
    """A PDF whose pages share one stream of text; without a table of its objects' places, which readers make anew."""
    text = f"BT /F1 12 Tf 72 700 Td ({LONG}) Tj ET".encode()
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, io.SEEK_END)
    numbers = range(5, 5 + pages)
    kids = kids or " ".join(f"{number} 0 R" for number in numbers)
    objects = [
        b"1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj\n",
        f"2 0 obj <</Type/Pages/Count {pages}/Kids[{kids}]>> endobj\n".encode(),
        b"3 0 obj <</Type/Font/Subtype/Type1/BaseFont/Helvetica>> endobj\n",
        b"4 0 obj <</Length %d>> stream\n%s\nendstream endobj\n" % (len(text), text),
        *(
            b"%d 0 obj <</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F1 3 0 R>>>>>>"
            b" endobj\n" % number
            for number in numbers
        ),
    ]
    out.writelines(objects)
    out.write(b"trailer <</Root 1 0 R/Size %d>>\n%%%%EOF\n" % (5 + pages))
    return out.getvalue()


def test_a_row_keeps_what_json_cannot_hold_as_text(tmp_path: Path) -> None:
    big = 10**30
    (tmp_path / "rows.jsonl").write_text(
        f'{{"text": "one", "n": {big}, "s": "a\\ud800"}}\n{{"text": "two"}}\n'
    )
    with ReaderPool(1, ReadLimits(SECONDS, MEMORY_MB), ReadOptions()) as pool:
        first, second = items_in(pool.submit(tmp_path / "rows.jsonl").result())
    assert isinstance(first, FileDocument)
    assert isinstance(second, FileDocument)
    assert first.metadata == {"n": str(big), "s": "a?", "row": 1}
    assert second.text == "two"


def write_hostile_folder(folder: Path) -> dict[str, str]:
    """20 files and more; the result is the beginning of the reason for each, empty for those that can be read."""
    folder.mkdir()
    expected: dict[str, str] = {}

    def put(name: str, data: bytes, reason: str) -> None:
        (folder / name).write_bytes(data)
        expected[name] = reason

    def put_zip(name: str, entries: dict[str, bytes], reason: str) -> None:
        zipped(folder / name, entries)
        expected[name] = reason

    write_locked_pdf(folder / "locked.pdf")
    write_picture_pdf(folder / "scan.pdf")
    expected |= {"locked.pdf": "encrypted: ", "scan.pdf": "scanned: "}
    put("zero.pdf", b"", "empty: ")
    put("zero.txt", b"", "too short: ")
    put("picture.pdf", b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "picture: ")
    put("noise.docx", bytes(range(256)) * 40, "damaged: ")
    put("noise.pdf", b"%PDF-1.7\n" + bytes(range(256)) * 40, "damaged: ")
    put("cut.pdf", long_pdf(3)[:300], "damaged: ")
    put("loop.pdf", long_pdf(3, kids="2 0 R 2 0 R 2 0 R"), "damaged: ")
    put("many_pages.pdf", long_pdf(10_000), "")
    put_zip("bomb.docx", {"word/document.xml": b"\0" * 400_000_000}, "too large: it unpacks to 400 MB")
    laughs = b'<!DOCTYPE x [<!ENTITY a "ha">' + b"".join(
        b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(12)
    )
    put_zip("laughs.docx", {"word/document.xml": laughs + b"]><w>&m;</w>"}, "damaged: ")
    put_zip(
        "laughs.odt",
        {"mimetype": b"application/vnd.oasis.opendocument.text", "content.xml": laughs + b"]><w>&m;</w>"},
        "damaged: ",
    )
    put_zip("nothing.epub", {"mimetype": b"application/epub+zip"}, "damaged: ")
    put_zip("only_an_archive.xlsx", {"a.txt": b"text"}, "archive: ")
    put("locked.xlsx", OLE + b"\0" * 500 + "EncryptedPackage".encode("utf-16-le"), "encrypted: ")
    put("old.docx", OLE + b"\0" * 500 + "WordDocument".encode("utf-16-le"), "old format: ")
    put("deep.jsonl", b'{"text": ' + b"[" * 200_000 + b"\n", "damaged row: ")
    put("open_quote.csv", b'text\n"' + b"x" * 20_000_000, "damaged row: ")
    put("deep.html", b"<div>" * 20_000 + LONG.encode(), "")
    put("zeros.txt", b"text" + b"\0" * 20_000, "binary: ")
    put("hidden.txt", (folder / "locked.pdf").read_bytes(), "encrypted: ")
    put("new\nline.txt", LONG.encode(), "")
    write_csv(folder / "tab\tand\x1b[31mcolour.csv")
    expected["tab\tand\x1b[31mcolour.csv"] = ""
    os.mkfifo(folder / "pipe.pdf")
    (folder / "out.pdf").symlink_to("/etc/passwd")
    (folder / "gone.docx").symlink_to(folder / "nowhere.docx")
    expected |= {
        "pipe.pdf": "unreadable: it is not a",
        "out.pdf": "link out",
        "gone.docx": "unreadable: it is a link to a file that does not exist",
    }
    with (folder / "sparse.csv").open("wb") as out:
        out.write(b"text\nrow\n" * 1000)
        out.truncate(1 << 29)
    expected["sparse.csv"] = "too large: "
    write_xlsx(folder / "macro.xlsm")
    expected["macro.xlsm"] = ""
    with zipfile.ZipFile(folder / "macro.xlsm", "a") as archive:
        archive.writestr("xl/vbaProject.bin", OLE)
    return expected


def test_each_hostile_file_is_stated_and_the_others_are_read(tmp_path: Path) -> None:
    expected = write_hostile_folder(tmp_path / "in")
    chosen = settings(
        tmp_path / "in",
        file_extensions=None,
        min_text_length=1,
        max_file_seconds=SECONDS,
        max_file_memory_mb=MEMORY_MB,
        reader_processes=2,
    )
    children = psutil.Process().children()
    started = time.monotonic()
    (tmp_path / "out").mkdir()
    read_corpus(chosen, tmp_path / "out")
    assert time.monotonic() - started < len(expected) * SECONDS / 4
    assert psutil.Process().children() == children
    corpus = Corpus(tmp_path / "out", "raw_corpus", "v")
    reasons = {row["doc_id"]: row["reason"] for row in corpus.skipped()}
    read = {document.doc_id.partition("#")[0] for document in corpus.documents()}
    for name, reason in expected.items():
        stated = next((said for doc_id, said in reasons.items() if doc_id.partition("#")[0] == name), "")
        assert stated or name in read, f"{name!r} is silently missing"
        assert stated.startswith(reason), (name, stated)
    assert {"new\nline.txt", "many_pages.pdf", "macro.xlsm"} <= read
    assert len(corpus.pages()["many_pages.pdf"]) == 10_000
    assert source_fingerprint(chosen) == corpus.summary()["fingerprint"]
    assert len(expected) >= 20


def read_one(path: Path, limits: ReadLimits) -> list[object]:
    with ReaderPool(1, limits, ReadOptions()) as pool:
        return list(items_in(pool.submit(path).result()))


def test_a_file_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "slow.html").write_text("<p>word</p>" * 3_000_000)
    (tmp_path / "next.html").write_text(f"<p>{LONG}</p>")
    with ReaderPool(1, ReadLimits(3, 4000), ReadOptions()) as pool:
        slow, after = pool.submit(tmp_path / "slow.html"), pool.submit(tmp_path / "next.html")
        with pytest.raises(
            ReadError, match=r"too slow: not read within 3 seconds \(corpus.max_file_seconds\)"
        ):
            slow.result()
        assert len(list(items_in(after.result()))) == 1


def test_a_file_that_takes_too_much_memory_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "large.html").write_text("<p><b>word</b></p>" * 1_000_000)
    with pytest.raises(ReadError, match=r"too large: (it )?needs more"):
        read_one(tmp_path / "large.html", ReadLimits(60, 150))


def test_the_next_file_is_read_after_a_reader_died(tmp_path: Path) -> None:
    (tmp_path / "slow.html").write_text("<p>word</p>" * 3_000_000)
    (tmp_path / "next.html").write_text(f"<p>{LONG}</p>")
    known = set(psutil.Process().children())
    with ReaderPool(1, ReadLimits(60, 4000), ReadOptions()) as pool:
        reading = pool.submit(tmp_path / "slow.html")
        while not (started := set(psutil.Process().children()) - known):
            threading.Event().wait(0.01)
        started.pop().send_signal(signal.SIGSEGV)
        with pytest.raises(ReadError, match=r"reader (died|failed)"):
            reading.result()
        assert len(list(items_in(pool.submit(tmp_path / "next.html").result()))) == 1


def test_a_reader_has_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", "nvapi-do-not-pass-on")
    write_html(tmp_path / "a.html")
    known = set(psutil.Process().children())
    with ReaderPool(1, ReadLimits(60, 500), ReadOptions()) as pool:
        pool.submit(tmp_path / "a.html").result()
        [reader] = set(psutil.Process().children()) - known
        assert "NVIDIA_API_KEY" not in reader.environ()


def test_a_table_that_claims_a_million_columns_is_bounded(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "wide.xlsx")
    with zipfile.ZipFile(tmp_path / "wide.xlsx") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    entries[sheet] = entries[sheet].replace(b'r="E3"', b'r="XFD1048576"')
    zipped(tmp_path / "wide.xlsx", entries)
    with pytest.raises(ReadError, match=r"too large|too slow|damaged|reader died"):
        read_one(tmp_path / "wide.xlsx", ReadLimits(20, MEMORY_MB))


def test_what_is_skipped_is_one_json_object_a_line(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text(LONG)
    (tmp_path / "in" / "b\n.pdf").write_bytes(b"")
    (tmp_path / "out").mkdir()
    read_corpus(settings(tmp_path / "in", file_extensions=None), tmp_path / "out")
    lines = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"doc_id": "b\n.pdf", "reason": "empty: it has no bytes"}]
