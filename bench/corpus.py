"""Reading a folder of mixed documents: the first time, again unchanged, and after 1% of the files changed.

    python bench/corpus.py [--files 10000] [--folder FOLDER]

The peer is the plain calls of the same libraries, which give text without headings, places, limits or a process of its
own. Prints a line for each figure; exits with 1 if one misses its target.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from assets_pkg.config.profile_files import load_profile  # noqa: E402
from assets_pkg.corpus.file_digests import RACY_NS  # noqa: E402
from assets_pkg.corpus.readers.registry import read  # noqa: E402
from assets_pkg.corpus.sources import read_corpus, source_fingerprint  # noqa: E402
from tests.corpus import office_files  # noqa: E402

WORDS = "wing span glider stall lift drag carbon fibre spar rudder flap thermal ridge cloud winch tow".split()  # noqa: SIM905
WRITERS: dict[str, Callable[..., None]] = {
    "pdf": office_files.write_pdf,
    "docx": office_files.write_docx,
    "pptx": office_files.write_pptx,
    "html": office_files.write_html,
    "epub": office_files.write_epub,
    "odt": office_files.write_odt,
}
CHANGED_SHARE = 0.01
MAX_SHARE_OF_TIME = 0.05
MAX_GROWTH = 1.25
COMPARED = 50
"""Files of each type."""

missed: list[str] = []


def report(name: str, value: str, *, good: bool = True) -> None:
    print(f"{'ok  ' if good else 'MISS'} {name:<44} {value}", flush=True)
    if not good:
        missed.append(name)


def sections(seed: int) -> list[tuple[str, str]]:
    chance = random.Random(seed)
    return [
        (f"Part {number} of {seed}", " ".join(chance.choices(WORDS, k=120)).capitalize() + ".")
        for number in range(3)
    ]


def write_one(folder: Path, number: int, version: int = 0) -> None:
    kinds = list(WRITERS)
    kind = kinds[number % len(kinds)]
    path = folder / f"{number % 100:02}" / f"{number:05}.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[kind](path, sections(number + 1_000_000 * version))


def settle(folder: Path) -> None:
    """Wait until the time stamps of files say whether they changed."""
    newest = max(path.stat().st_ctime_ns for path in folder.rglob("*"))
    time.sleep(max(0.0, (newest + RACY_NS - time.time_ns()) / 1e9 + 0.1))


def read_in_process(folder: Path, cache: Path, out: Path) -> dict[str, Any]:
    """One reading in a process of its own, as ``retune`` does it: the fingerprint, then the corpus."""
    command = [sys.executable, __file__, "--read", str(folder), str(cache), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _read(folder: str, cache: str, out: str) -> None:
    settings = load_profile("laptop", [f"corpus_dir={folder}"]).corpus
    Path(out).mkdir(parents=True)
    started = time.monotonic()
    source_fingerprint(settings, Path(cache))
    read_corpus(settings, Path(out), cache=Path(cache))
    seconds = time.monotonic() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_seconds = sum(each.ru_utime + each.ru_stime for each in used)
    summary = json.loads((Path(out) / "summary.json").read_text())
    figures = {name: summary[name] for name in ("documents", "skipped", "files_converted", "files_unchanged")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak, **figures}))


def plain_pdf(path: Path) -> None:
    import pypdfium2

    with pypdfium2.PdfDocument(path) as document:
        for page in document:
            page.get_textpage().get_text_range()


def plain_docx(path: Path) -> None:
    import mammoth

    with path.open("rb") as stream:
        mammoth.extract_raw_text(stream)


def plain_pptx(path: Path) -> None:
    from pptx import Presentation

    for slide in Presentation(str(path)).slides:
        for shape in slide.shapes:
            _ = cast(Any, shape).text_frame.text


def plain_html(path: Path) -> None:
    from bs4 import BeautifulSoup

    BeautifulSoup(path.read_bytes(), "lxml").get_text()


PLAIN = {"pdf": plain_pdf, "docx": plain_docx, "pptx": plain_pptx, "html": plain_html}


def compare_types(folder: Path) -> None:
    """CPU milliseconds of a file of each type: read in this process by Retune's reader, and by its library alone."""
    for kind in WRITERS:
        files = sorted(folder.rglob(f"*.{kind}"))[:COMPARED]
        ours = _milliseconds(lambda path: list(read(path)), files)
        plain = f"{_milliseconds(PLAIN[kind], files):.1f} ms" if kind in PLAIN else "-"
        report(f"a file of {kind}, and its library alone", f"{ours:.1f} ms, {plain}")


def _milliseconds(call: Callable[[Path], object], files: Sequence[Path]) -> float:
    call(files[0])  # imports
    started = time.process_time()
    for path in files:
        call(path)
    return 1000 * (time.process_time() - started) / len(files)


def _times(figures: dict[str, Any]) -> str:
    """Wall seconds of the reading, and CPU seconds of all its processes with the command's start."""
    return f"{figures['seconds']:.1f} s, {figures['cpu_seconds']:.1f} CPU s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    count: int = options.files
    work = options.folder or Path(tempfile.mkdtemp(prefix="bench-corpus-"))
    folder, cache = work / "in", work / "cache"
    for number in range(count):
        write_one(folder, number)
    settle(folder)
    few = work / "few"
    for number in range(count // 10):
        write_one(few, number)
    small = read_in_process(few, work / "cache-few", work / "out-few")
    first = read_in_process(folder, cache, work / "out1")
    report(
        f"{count:,} files, first time",
        f"{_times(first)} ({count / first['seconds']:.0f} files/s, {len(os.sched_getaffinity(0))} cores)",
        good=first["documents"] == count,
    )
    report(
        "peak memory of the command, a tenth and all",
        f"{small['peak_mb']:.0f} MB, {first['peak_mb']:.0f} MB",
        good=first["peak_mb"] < MAX_GROWTH * small["peak_mb"],
    )
    changed = range(0, count, round(1 / CHANGED_SHARE))
    for number in changed:
        write_one(folder, number, version=1)
    settle(folder)
    second = read_in_process(folder, cache, work / "out2")
    share = second["seconds"] / first["seconds"]
    report(
        "files read after 1% changed",
        f"{second['files_converted']:,} of {len(changed):,} changed ones",
        good=second["files_converted"] == len(changed),
    )
    report("its time", f"{_times(second)} ({share:.1%})", good=share < MAX_SHARE_OF_TIME)
    again = read_in_process(folder, cache, work / "out3")
    report("again, nothing changed", _times(again), good=again["files_converted"] == 0)
    compare_types(few)
    sys.exit(bool(missed))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        _read(*sys.argv[2:])
    else:
        main()
