"""Reading captions: the reference of each clip, and the captioners' captions of it.

Files are those of CLIP-CC-Bench (github.com/Multimodal-Intelligence-Lab/CLIP-CC-Bench), or simpler ones:
references as a JSON list or JSON lines of ``{"id", "summary"}`` (or ``reference``, ``caption``, ``text``), as
``{id: text}``, or as a CSV or TSV table with such columns; predictions as one such file for each captioner, named
after it, in one folder.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assets_pkg.judges.errors import CaptionError
from storage.digests import digest_json
from storage.formats.json_values import decode, parse_json, read_lines, read_whole

TEXT_FIELDS = ("summary", "reference", "caption", "text")
ID_FIELDS = ("id", "clip_id", "video_id")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".json", ".jsonl", *DELIMITERS)
NAMED = 5


@dataclass(frozen=True)
class CaptionSet:
    """Captions to be judged; no text is empty. ``clips``: the clips that every captioner described, in order;
    ``left_out``: the other clips, each with the captioners that did not describe it. By captioner: ``empty``, the
    clips whose caption is empty (they are among ``left_out``), and ``unknown``, the clips without a reference, which
    are not judged."""

    references: Mapping[str, str]
    predictions: Mapping[str, Mapping[str, str]]
    clips: tuple[str, ...]
    left_out: Mapping[str, list[str]]
    empty: Mapping[str, list[str]] = field(default_factory=dict)
    unknown: Mapping[str, list[str]] = field(default_factory=dict)

    def digest(self) -> str:
        """Digest of the judged texts."""
        texts = [
            [clip, self.references[clip], *(self.predictions[name][clip] for name in self.predictions)]
            for clip in self.clips
        ]
        return digest_json([list(self.predictions), texts])

    def notes(self) -> list[str]:
        """What of the files is not judged, one sentence for each kind and captioner."""
        lines = [
            f"{name} has an empty caption for {_named(clips)}: left out for all captioners"
            for name, clips in self.empty.items()
        ]
        lines += [
            f"{name} describes {_named(clips)} without a reference: not judged"
            for name, clips in self.unknown.items()
        ]
        if self.left_out:
            lines.append(
                f"{len(self.left_out)} of {len(self.references)} clips are left out for all captioners"
            )
        return lines


def read_captions(references: Path, predictions_dir: Path, *, allow_gaps: bool = False) -> CaptionSet:
    """Read references and all captioners' files.

    A clip that some captioner did not describe, or with an empty caption, is an error by default, because leaving it
    out or scoring it 0 would change the ranking. With ``allow_gaps`` only clips that all captioners described are
    judged; the others are listed.

    Raises:
        CaptionError: a file is missing or has another structure, a caption is empty, duplicated or missing, or two
            captioners have the same captions.
    """
    reference_texts = read_texts(references)
    predictions: dict[str, dict[str, str]] = {}
    empty: dict[str, list[str]] = {}
    for path in _prediction_files(predictions_dir):
        texts, without_text = _read(path, allow_empty=allow_gaps)
        predictions[path.stem] = texts
        if without_text:
            empty[path.stem] = without_text
    gaps = {
        clip: missing
        for clip in reference_texts
        if (missing := [name for name, texts in predictions.items() if clip not in texts])
    }
    if gaps and not allow_gaps:
        raise CaptionError(_explain_gaps(gaps))
    clips = tuple(clip for clip in reference_texts if clip not in gaps)
    if not clips:
        raise CaptionError(f"{predictions_dir}: no clip of {references} is described by all captioners")
    _check_distinct(predictions, clips)
    unknown = {
        name: extra
        for name, texts in predictions.items()
        if (extra := [clip for clip in texts if clip not in reference_texts])
    }
    return CaptionSet(reference_texts, predictions, clips, gaps, empty, unknown)


def read_texts(path: Path) -> dict[str, str]:
    """Texts by clip id, in the file's order.

    Raises:
        CaptionError: see `read_captions`.
    """
    return _read(path, allow_empty=False)[0]


def _read(path: Path, *, allow_empty: bool) -> tuple[dict[str, str], list[str]]:
    """Texts by clip id, and the clips whose text is empty (null, or blanks alone)."""
    texts: dict[str, str] = {}
    empty: list[str] = []
    seen: set[str] = set()
    for where, clip, text in _entries(path):
        if clip in seen:
            raise CaptionError(f"{path}: {where}: {clip!r} is there twice: keep one")
        seen.add(clip)
        blank = text is None or (isinstance(text, str) and not text.strip())
        if blank and allow_empty:
            empty.append(clip)
        elif blank or not isinstance(text, str):
            raise CaptionError(
                f"{path}: {where}: the caption of {clip!r} is empty or not a text: add it or remove the clip"
            )
        else:
            texts[clip] = text.strip()
    if not seen:
        raise CaptionError(f"{path}: has no captions")
    return texts, empty


def _check_distinct(predictions: Mapping[str, Mapping[str, str]], clips: tuple[str, ...]) -> None:
    """Two captioners with the same captions get the same scores from every judge, and no order."""
    known: dict[tuple[str, ...], str] = {}
    for name, texts in predictions.items():
        captions = tuple(texts[clip] for clip in clips)
        first = known.setdefault(captions, name)
        if first != name:
            raise CaptionError(
                f"{first} and {name} have the same captions for all {len(clips)} clips: remove one of the two files"
            )


def _entries(path: Path) -> Iterator[tuple[str, str, Any]]:
    """(position in the file, clip id, text) of every entry, for each of the accepted structures."""
    if path.suffix in DELIMITERS:
        yield from _table(path)
        return
    document = _load(path)
    if isinstance(document, dict):
        for clip, text in document.items():
            yield f"key {clip!r}", str(clip), text
        return
    for number, row in enumerate(document, 1):
        where = f"entry {number}"
        if not isinstance(row, dict):
            raise CaptionError(f"{path}: {where}: must be an object with an id and a text")
        clip = _first(path, where, row, ID_FIELDS)
        if not isinstance(clip, str | int | float):
            raise CaptionError(f"{path}: {where}: its id must be a text or a number")
        yield where, str(clip), _first(path, where, row, TEXT_FIELDS)


def _table(path: Path) -> Iterator[tuple[str, str, Any]]:
    """The rows of a table with a heading; ids stay as they are written (``001``)."""
    content = decode(read_whole(path, CaptionError), str(path), CaptionError)
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=DELIMITERS[path.suffix])
    try:
        for row in rows:
            where = f"line {rows.line_num}"
            if None in row:
                raise CaptionError(f"{path}: {where}: has more cells than the first line has names")
            yield where, _first(path, where, row, ID_FIELDS) or "", _first(path, where, row, TEXT_FIELDS)
    except csv.Error as error:
        raise CaptionError(f"{path}: line {rows.line_num}: not readable as {path.suffix}: {error}") from error


def _load(path: Path) -> list[Any] | dict[str, Any]:
    if path.suffix == ".jsonl":
        return [parse_json(line, where, CaptionError) for where, line in read_lines(path, CaptionError)]
    document = parse_json(read_whole(path, CaptionError), str(path), CaptionError)
    if not isinstance(document, list | dict):
        raise CaptionError(f"{path}: must be a list of objects or an object of texts by clip")
    return document


def _first(path: Path, where: str, row: dict[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise CaptionError(f"{path}: {where}: has none of {', '.join(names)}")


def _prediction_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CaptionError(
            f"{folder}: no such folder: it must hold one file ({', '.join(SUFFIXES)}) for each captioner"
        )
    # A name that begins with a dot is not a captioner: macOS leaves ._NAME.json beside NAME.json.
    files = sorted(
        path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise CaptionError(f"{folder}: has no {', '.join(SUFFIXES)} file: one for each captioner is needed")
    doubled = {path.stem for path in files if sum(other.stem == path.stem for other in files) > 1}
    if doubled:
        raise CaptionError(f"{folder}: two files for {', '.join(sorted(doubled))}: keep one")
    return files


def _explain_gaps(gaps: Mapping[str, list[str]]) -> str:
    by_captioner: dict[str, list[str]] = {}
    for clip, names in gaps.items():
        for name in names:
            by_captioner.setdefault(name, []).append(clip)
    missing = [f"{name} lacks {_named(clips)}" for name, clips in by_captioner.items()]
    return (
        f"captions are missing: {'; '.join(missing)}. Add them, or set judges.allow_gaps=true to judge only the clips "
        "that all captioners described"
    )


def _named(clips: list[str]) -> str:
    """How many clips, and the first of them."""
    return f"{len(clips)} ({', '.join(clips[:NAMED])}{', ...' if len(clips) > NAMED else ''})"
