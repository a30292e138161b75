"""The headers of safetensors files, and whether a file is as long as its header says; no tensor is read.

Format: https://huggingface.co/docs/safetensors, read by the ``safetensors`` and ``huggingface_hub`` packages.
"""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

LENGTH_BYTES = 8
"""The first field of a file, the header's length: little-endian."""

PARSING_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""Of the parser, for headers of JSON that is not the format's."""


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """The shape of every tensor by name.

    Raises:
        ValueError: the header cannot be read; the message says what is wrong, without the path.
    """
    return {name: list(tensor.shape) for name, tensor in _header(path).items()}


def announced_bytes(path: Path) -> int:
    """How long the header says that the file is.

    `safetensors.safe_open` refuses a file of another length too, but its message has neither length.

    Raises:
        ValueError: as for `tensor_shapes`.
    """
    ends = [tensor.data_offsets[1] for tensor in _header(path).values()]
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
    return LENGTH_BYTES + length + max(ends, default=0)


def safetensors_problem(path: Path) -> str | None:
    """Why a safetensors file cannot be loaded, as text; None if its layout is right."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np"):
            return None
    except SafetensorError as error:
        try:
            announced, size = announced_bytes(path), path.stat().st_size
        except ValueError as unreadable:
            return str(unreadable)
        if size != announced:
            return f"{size:,} bytes long, and its header says {announced:,}"
        return f"its header is not one of safetensors ({error})"


def _header(path: Path) -> dict[str, Any]:
    from huggingface_hub import parse_local_safetensors_file_metadata
    from huggingface_hub.errors import SafetensorsParsingError

    if path.stat().st_size < LENGTH_BYTES:
        raise ValueError("shorter than a safetensors header")
    try:
        tensors = parse_local_safetensors_file_metadata(path).tensors
        for tensor in tensors.values():  # the parser takes any JSON for numbers
            operator.index(sum((*tensor.shape, *tensor.data_offsets)))
        return tensors
    except (SafetensorsParsingError, *PARSING_ERRORS) as error:
        raise ValueError("its header is cut short or is not one of safetensors") from error
