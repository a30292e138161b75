"""The README of a checkpoint: what it was made from and how."""

from __future__ import annotations

from typing import Any

TEMPLATE = """\
---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, retune]
{front}---

# {source}, fine-tuned by Retune

A text-embedding model for retrieval, adapted to one collection of documents.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
queries = model.encode_query(["..."])
passages = model.encode_document(["..."])
scores = queries @ passages.T
```

Vectors have unit length: dot product and cosine are the same.

| made from | |
|---|---|
| base model | {source} |
| base digest | {base_version} |
| training set digest | {data_version} |
| licence of the base | {licence} |

{results}
## Settings

| setting | value |
|---|---|
{settings}
"""


def model_card(
    base_summary: dict[str, Any],
    base_version: str,
    data_version: str,
    settings: dict[str, Any],
    results: dict[str, Any],
) -> str:
    """Markdown with the front matter that the Hugging Face hub reads; the same for the same inputs."""
    licence = base_summary.get("licence")
    source = base_summary.get("source", "unknown base model")
    return TEMPLATE.format(
        front=f"license: {licence}\n" if licence else "",
        source=source,
        base_version=base_version,
        data_version=data_version,
        licence=licence or "not stated",
        results=_section("Training", results),
        settings=_rows(settings),
    )


def _section(title: str, values: dict[str, Any]) -> str:
    return f"## {title}\n\n| figure | value |\n|---|---|\n{_rows(values)}\n"


def _rows(values: dict[str, Any]) -> str:
    return "\n".join(f"| {name} | {_text(value)} |" for name, value in values.items())


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
