"""Zip archives that documents are: what is in them, within limits."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assets_pkg.corpus.readers.file_document import ReadError

MAX_ENTRIES = 50_000


@contextmanager
def open_archive(path: Path, max_bytes: int) -> Iterator[zipfile.ZipFile]:
    """The archive, if it does not unpack to more than ``max_bytes``; to be read within the block.

    Raises:
        ReadError: it is damaged, encrypted or too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > max_bytes or len(entries) > MAX_ENTRIES:
                raise ReadError(
                    "too large",
                    f"it unpacks to {size / 1e6:,.0f} MB in {len(entries):,} files, more than "
                    f"{max_bytes / 1e6:,.0f} MB (corpus.max_file_memory_mb)",
                )
            if any(entry.flag_bits & 1 for entry in entries):
                raise ReadError("encrypted", "its archive has a password: save it without one")
            yield archive
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, KeyError) as error:
        raise ReadError("damaged", f"its archive cannot be read ({error})") from error


def parse_xml(data: bytes) -> Any:
    """The root element; entities are not resolved, and nothing is fetched.

    Raises:
        ReadError: it is malformed.
    """
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise ReadError("damaged", f"its XML is malformed ({error.msg})") from error
