"""Reading captions: the reference of each clip, and the captioners' captions of it.

Files are those of CLIP-CC-Bench (github.com/Multimodal-Intelligence-Lab/CLIP-CC-Bench), or simpler ones:
references as a JSON list or JSON lines of ``{"id", "summary"}`` (or ``reference``, ``caption``, ``text``), or as
``{id: text}``; predictions as one such file for each captioner, named after it, in one folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets_pkg.judges.errors import CaptionError
from storage.digests import digest_json
from storage.formats.json_values import parse_json, read_lines, read_whole

TEXT_FIELDS = ("summary", "reference", "caption", "text")
ID_FIELDS = ("id", "clip_id", "video_id")
SUFFIXES = (".json", ".jsonl")
NAMED = 5


@dataclass(frozen=True)
class CaptionSet:
    """Captions to be judged; no text is empty. ``clips``: the clips that every captioner described, in order;
    ``left_out``: the other clips, each with the captioners that did not describe it."""

    references: Mapping[str, str]
    predictions: Mapping[str, Mapping[str, str]]
    clips: tuple[str, ...]
    left_out: Mapping[str, list[str]]

    def digest(self) -> str:
        """Digest of the judged texts."""
        texts = [
            [clip, self.references[clip], *(self.predictions[name][clip] for name in self.predictions)]
            for clip in self.clips
        ]
        return digest_json([list(self.predictions), texts])


def read_captions(references: Path, predictions_dir: Path, *, allow_gaps: bool = False) -> CaptionSet:
    """Read references and all captioners' files.

    A clip that some captioner did not describe is an error by default, because leaving it out or scoring it 0 would
    change the ranking. With ``allow_gaps`` only clips that all captioners described are judged; the others are listed.

    Raises:
        CaptionError: a file is missing or has another structure, or a caption is empty, duplicated or missing.
    """
    reference_texts = read_texts(references)
    files = _prediction_files(predictions_dir)
    predictions = {path.stem: read_texts(path) for path in files}
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
    return CaptionSet(reference_texts, predictions, clips, gaps)


def read_texts(path: Path) -> dict[str, str]:
    """Texts by clip id, in the file's order.

    Raises:
        CaptionError: see `read_captions`.
    """
    texts: dict[str, str] = {}
    for where, clip, text in _entries(path):
        if not isinstance(text, str) or not text.strip():
            raise CaptionError(
                f"{path}: {where}: the caption of {clip!r} is empty or not a text: add it or remove the clip"
            )
        if clip in texts:
            raise CaptionError(f"{path}: {where}: {clip!r} is there twice: keep one")
        texts[clip] = text.strip()
    if not texts:
        raise CaptionError(f"{path}: has no captions")
    return texts


def _entries(path: Path) -> Iterator[tuple[str, str, Any]]:
    """(position in the file, clip id, text) of every entry, for each of the accepted structures."""
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
    missing = [
        f"{name} lacks {len(clips)} ({', '.join(clips[:NAMED])}{', ...' if len(clips) > NAMED else ''})"
        for name, clips in by_captioner.items()
    ]
    return (
        f"captions are missing: {'; '.join(missing)}. Add them, or set judges.allow_gaps=true to judge only the clips "
        "that all captioners described"
    )
