"""The report as one HTML page, made from the report's own files; it loads nothing from elsewhere."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from assets_pkg.profile import EvalSettings
from storage.artifact_store import write_atomic

TEMPLATE = "report.html"
PICTURES = {
    "bars.png": "Base and fine-tuned model",
    "gains.png": "Gain of every query",
    "dimensions.png": "Shortened vectors",
    "slices.png": "Parts of the exam",
}


def write_page(folder: Path, settings: EvalSettings) -> None:
    """Write ``report.html`` into a report's folder from the files that are there."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    results = _read(folder / "eval_results.json", {})
    page = environment.get_template(TEMPLATE).render(
        metadata=results["metadata"],
        results={name: results[name] for name in results["metadata"]["models"]},
        mrr=results["mrr"],
        comparison=_read(folder / "comparison.json", {}),
        slices=_read(folder / "slices.json", []),
        dimensions=_read(folder / "dimensions.json", []),
        changes=_read(folder / "changes.json", {}),
        pictures={
            title: _data_uri(folder / name) for name, title in PICTURES.items() if (folder / name).exists()
        },
        settings=settings.model_dump(mode="json"),
    )
    write_atomic(folder / "report.html", page)


def _read(path: Path, otherwise: Any) -> Any:
    return json.loads(path.read_text("utf-8")) if path.exists() else otherwise


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
