"""What all reports share that are one self-contained HTML page: the frame and style (``page.html``), escaping, embedded
pictures, axes."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def render_page(template: Path, **values: Any) -> str:
    """The page of a template that extends ``page.html``. All values are escaped; an unknown name is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template.name).render(**values)


def data_uri(path: Path) -> str:
    """A PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


@dataclass(frozen=True)
class Scale:
    """A horizontal axis from ``low`` to ``high``; positions are in percent of its width."""

    low: float
    high: float

    def position(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)


def scale_of(rows: Iterable[Mapping[str, Any]], *, zero: bool = True) -> Scale:
    """The scale that covers the intervals of all ``rows``, and zero where it is meant, with a margin."""
    ends = [*([0.0] if zero else []), *(row[end] for row in rows for end in ("low", "high"))]
    margin = 0.04 * (max(ends) - min(ends)) or 1.0
    return Scale(min(ends) - margin, max(ends) + margin)
