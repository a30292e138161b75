"""Reading captions: the references of each clip, and what each captioner said about it.

Files are those of CLIP-CC-Bench (github.com/Multimodal-Intelligence-Lab/CLIP-CC-Bench), or plainer ones:
references as a JSON list or JSON lines of ``{"id", "summary"}`` (or ``reference``, ``caption``, ``text``), or as
``{id: text}``; predictions as one such file for each captioner, named after it, in one folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets_pkg.judges.errors import CaptionError
from storage.digests import digest_json

TEXT_FIELDS = ("summary", "reference", "caption", "text")
ID_FIELDS = ("id", "clip_id", "video_id")
SUFFIXES = (".json", ".jsonl")
NAMED = 5


@dataclass(frozen=True)
class CaptionSet:
    """Captions to be judged. ``clips`` are those that every captioner described, in order; ``left_out`` those that
    somebody did not, by clip: who. Every text is non-empty."""

    references: Mapping[str, str]
    predictions: Mapping[str, Mapping[str, str]]
    clips: tuple[str, ...]
    left_out: Mapping[str, list[str]]

    def digest(self) -> str:
        """Digest of all texts that are judged."""
        texts = [
            [clip, self.references[clip], *(self.predictions[name][clip] for name in self.predictions)]
            for clip in self.clips
        ]
        return digest_json([list(self.predictions), texts])


def read_captions(references: Path, predictions_dir: Path, *, allow_gaps: bool = False) -> CaptionSet:
    """Read references and all captioners' files.

    A clip that a captioner did not describe would count for nothing or against it, so by default it is an error;
    with ``allow_gaps`` only clips that all described are judged, and the others are listed.

    Raises:
        CaptionError: a file is missing, of another shape, has an empty or doubled caption, or leaves a gap.
    """
    wanted = read_texts(references)
    files = _prediction_files(predictions_dir)
    predictions = {path.stem: read_texts(path) for path in files}
    gaps = {
        clip: missing
        for clip in wanted
        if (missing := [name for name, texts in predictions.items() if clip not in texts])
    }
    if gaps and not allow_gaps:
        raise CaptionError(_explain_gaps(gaps))
    clips = tuple(clip for clip in wanted if clip not in gaps)
    if not clips:
        raise CaptionError(f"{predictions_dir}: no clip of {references} is described by all captioners")
    return CaptionSet(wanted, predictions, clips, gaps)


def read_texts(path: Path) -> dict[str, str]:
    """Texts by clip id, in the file's order.

    Raises:
        CaptionError: see `read_captions`.
    """
    texts: dict[str, str] = {}
    for place, clip, text in _pairs(path):
        if not isinstance(text, str) or not text.strip():
            raise CaptionError(
                f"{path}: {place}: the caption of {clip!r} is empty or not a text: add it or remove the clip"
            )
        if clip in texts:
            raise CaptionError(f"{path}: {place}: {clip!r} is there twice: keep one")
        texts[clip] = text.strip()
    if not texts:
        raise CaptionError(f"{path}: has no captions")
    return texts


def _pairs(path: Path) -> Iterator[tuple[str, str, Any]]:
    """(place, clip id, text) of every entry, whatever the file's shape."""
    document = _load(path)
    if isinstance(document, dict):
        for clip, text in document.items():
            yield f"key {clip!r}", str(clip), text
        return
    for number, row in enumerate(document, 1):
        place = f"entry {number}"
        if not isinstance(row, dict):
            raise CaptionError(f"{path}: {place}: must be an object with an id and a text")
        yield place, str(_first(path, place, row, ID_FIELDS)), _first(path, place, row, TEXT_FIELDS)


def _load(path: Path) -> list[Any] | dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        document = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if path.suffix == ".jsonl"
            else json.loads(text)
        )
    except (OSError, UnicodeDecodeError) as error:
        raise CaptionError(f"{path}: not readable as UTF-8 text: {error}") from error
    except ValueError as error:
        raise CaptionError(f"{path}: not JSON: {error}") from error
    if not isinstance(document, list | dict):
        raise CaptionError(f"{path}: must be a list of objects or an object of texts by clip")
    return document


def _first(path: Path, place: str, row: dict[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise CaptionError(f"{path}: {place}: has none of {', '.join(names)}")


def _prediction_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CaptionError(
            f"{folder}: no such folder: it must hold one .json or .jsonl file for each captioner"
        )
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if not files:
        raise CaptionError(f"{folder}: has no .json or .jsonl file: one for each captioner is needed")
    doubled = {path.stem for path in files if sum(other.stem == path.stem for other in files) > 1}
    if doubled:
        raise CaptionError(f"{folder}: two files for {', '.join(sorted(doubled))}: keep one")
    return files


def _explain_gaps(gaps: Mapping[str, list[str]]) -> str:
    by_captioner: dict[str, list[str]] = {}
    for clip, names in gaps.items():
        for name in names:
            by_captioner.setdefault(name, []).append(clip)
    told = [
        f"{name} lacks {len(clips)} ({', '.join(clips[:NAMED])}{', ...' if len(clips) > NAMED else ''})"
        for name, clips in by_captioner.items()
    ]
    return (
        f"captions are missing: {'; '.join(told)}. Add them, or set judges.allow_gaps=true to judge only the clips "
        "that all captioners described"
    )
