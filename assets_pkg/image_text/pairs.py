"""Reading pairs of an image and its text: named colours, a folder, or a table.

- ``colours://xkcd``: 949 solid swatches of 244 x 244 pixels and their names, as in color-perception-bench.
- a folder: images, each with a ``.txt`` of the same name beside it.
- a table: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` with columns ``text`` and ``image`` (a path relative to
  the table), and optionally ``id``.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets_pkg.config.sections.image_text import PairSettings
from assets_pkg.image_text.colour import RGB, xkcd_colours
from assets_pkg.image_text.errors import PairError
from resources.encoders.items import ItemError, decode_image, encode_png
from storage.digests import digest_file, digest_json
from storage.files import write_json
from storage.formats.json_values import decode, parse_json, read_lines, read_whole
from storage.formats.parquet_rows import read_parquet_rows
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from PIL import Image

COLOURS = "colours://xkcd"
SWATCH_SIZE = 244
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
ROWS_PER_GROUP = 256

_CELL = str | int | float | None


@dataclass(frozen=True)
class Pair:
    """One pair. ``image``: the content of an image file; ``rgb``: the 8-bit sRGB colour of an image of one colour."""

    pair_id: str
    text: str
    image: bytes
    rgb: RGB | None = None

    def open(self) -> Image.Image:
        return decode_image(self.image)


def write_pairs(settings: PairSettings, folder: Path, progress: Progress = no_progress) -> None:
    """Read all pairs, check that every image can be read, and write an `ImageTextPairs` folder.

    Raises:
        PairError: the source is missing, has a broken image or an empty text, or fewer than two pairs.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema: Any = pa.schema(
        [
            ("pair_id", pa.string()),
            ("text", pa.string()),
            ("image", pa.binary()),
            ("rgb", pa.list_(pa.int32())),
        ]
    )
    count, distinct = 0, set[str]()
    with pq.ParquetWriter(folder / "pairs.parquet", schema) as writer:
        pairs = iter(islice(_checked(read_pairs(settings.pairs)), settings.num_pairs_limit))
        while block := list(islice(pairs, ROWS_PER_GROUP)):
            rows = [vars(pair) | {"rgb": pair.rgb and list(pair.rgb)} for pair in block]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(block)
            distinct.update(pair.text for pair in block)
            progress(count, count, "pairs")
    if count < 2:
        raise PairError(f"{settings.pairs}: {count} pairs: at least two are needed")
    summary = {"pairs": count, "distinct_texts": len(distinct), "source": settings.pairs}
    write_json(folder / "summary.json", summary, indent=None, ensure_ascii=True)


def read_pairs(source: str) -> Iterator[Pair]:
    """The pairs of a source, in its order.

    Raises:
        PairError: the source is missing or not readable.
    """
    if source == COLOURS:
        return _swatches()
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    _require_table(source)
    return _table(path)


def check_source(source: str) -> None:
    """Check that a source and all files that it names exist; no image is decoded.

    Raises:
        PairError: something is missing; the message names it.
    """
    path = Path(source)
    if path.is_dir():
        deque(_folder_files(path), maxlen=0)
    elif source != COLOURS:
        _require_table(source)
        deque(_table_rows(path), maxlen=0)


def source_digest(source: str) -> str:
    """Digest of a source's present content, images included."""
    path = Path(source)
    if source == COLOURS:
        return digest_json(xkcd_colours())
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        return digest_json([[file.relative_to(path).as_posix(), digest_file(file)] for file in files])
    _require_table(source)
    images = [str(row.get("image")) for _, row in _rows(path)]
    return digest_json([digest_file(path), [digest_file(_image_path(path, name)) for name in images]])


def _require_table(source: str) -> None:
    path = Path(source)
    if not path.is_file() or path.suffix not in TABLE_SUFFIXES:
        absent = "" if path.exists() else "no such file or folder; it "
        raise PairError(
            f"image_text.pairs = {source!r}: {absent}must be {COLOURS}, a folder of images with .txt files, or a table "
            f"({', '.join(TABLE_SUFFIXES)})"
        )


def _swatches() -> Iterator[Pair]:
    from PIL import Image

    for name, rgb in xkcd_colours().items():
        yield Pair(name, name, encode_png(Image.new("RGB", (SWATCH_SIZE, SWATCH_SIZE), rgb)), rgb)


def _folder(folder: Path) -> Iterator[Pair]:
    for image, text in _folder_files(folder):
        yield Pair(image.relative_to(folder).as_posix(), _read_text(text), image.read_bytes())


def _folder_files(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Image files, each with the file of its text."""
    images = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise PairError(f"{folder}: has no images ({', '.join(IMAGE_SUFFIXES)})")
    for path in images:
        text = path.with_suffix(".txt")
        if not text.is_file():
            raise PairError(f"{path}: has no text beside it: write it into {text.name}")
        yield path, text


def _table(path: Path) -> Iterator[Pair]:
    for row, image in _table_rows(path):
        yield Pair(str(row.get("id") or row["image"]), str(row["text"]), image.read_bytes())


def _table_rows(path: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """Rows that have text and image, with the image's path."""
    for number, row in _rows(path):
        missing = [name for name in ("text", "image") if not row.get(name)]
        if missing:
            raise PairError(f"{path}: row {number}: has no {' and no '.join(missing)}")
        wrong = [name for name in ("id", "text", "image") if not isinstance(row.get(name), _CELL)]
        if wrong:
            raise PairError(f"{path}: row {number}: {wrong[0]}: must be a text or a number")
        yield row, _image_path(path, str(row["image"]))


def _image_path(table: Path, name: str) -> Path:
    path = table.parent / name
    try:
        if path.is_file():
            return path
    except OSError as error:  # such as a name that is too long
        raise PairError(f"{table}: image {name!r}: {error.strerror}") from error
    raise PairError(f"{table}: image {name!r}: no such file {path}")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in enumerate(_read_rows(path), 1):
        if not isinstance(row, dict):
            raise PairError(f"{path}: row {number}: must be an object")
        yield number, row


def _read_rows(path: Path) -> Iterable[Any]:
    if path.suffix == ".parquet":
        return read_parquet_rows(path, PairError)
    if path.suffix == ".jsonl":
        return (parse_json(line, where, PairError) for where, line in read_lines(path, PairError))
    return _delimited(path, "\t" if path.suffix == ".tsv" else ",")


def _delimited(path: Path, mark: str) -> Iterator[dict[str, Any]]:
    rows = csv.DictReader(io.StringIO(_read_text(path), newline=""), delimiter=mark)
    try:
        for row in rows:
            if any(row.get(None) or ()):  # type: ignore[call-overload]
                raise PairError(f"{path}:{rows.line_num}: has more cells than the first line has names")
            yield row
    except csv.Error as error:
        raise PairError(f"{path}:{rows.line_num}: not readable as {path.suffix}: {error}") from error


def _read_text(path: Path) -> str:
    return decode(read_whole(path, PairError), str(path), PairError)


def _checked(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """The pairs, checked: ids are unique, texts are not empty, images can be decoded."""
    seen: set[str] = set()
    for pair in pairs:
        if pair.pair_id in seen:
            raise PairError(f"{pair.pair_id!r} is the id of two pairs: make ids differ")
        seen.add(pair.pair_id)
        if not pair.text.strip():
            raise PairError(f"{pair.pair_id}: its text is empty")
        if pair.rgb is None:
            try:
                pair.open()
            except ItemError as error:
                raise PairError(f"{pair.pair_id}: {error}") from error
        yield Pair(pair.pair_id, pair.text.strip(), pair.image, pair.rgb)
