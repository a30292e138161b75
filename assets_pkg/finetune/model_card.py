"""The model card of a checkpoint: what it was made from and how."""

from __future__ import annotations

import re
from typing import Any

from assets_pkg.config.base import ModelSettings

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

TEMPLATE = """\
---
{{ card_data }}
---

# {{ source }}, fine-tuned by Retune

A text-embedding model for retrieval, adapted to one collection of documents.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
queries = model.encode_query(["..."])
passages = model.encode_document(["..."])
scores = queries @ passages.T
```

Vectors have {{ dimension }} dimensions and unit length: dot product and cosine are the same. Queries begin with
`{{ query_prefix }}` and passages with `{{ passage_prefix }}` (both methods add it), and are truncated at
{{ max_length }} tokens.

| made from | |
|---|---|
| base model | {{ source }} |
| revision of the base | {{ revision }} |
| base digest | {{ base_version }} |
| training set digest | {{ data_version }} |
| licence of the base | {{ licence }} |

The digest of this model, the eval set it was measured on, and its scores with their intervals are in the `eval_metrics`
report of the project that made it; it was adapted to that project's documents, and its quality on others was not
measured.

## Training

| figure | value |
|---|---|
{% for name, value in results.items() -%}
| {{ name }} | {{ as_text(value) }} |
{% endfor %}
## Settings

| setting | value |
|---|---|
{% for name, value in settings.items() -%}
| {{ name }} | {{ as_text(value) }} |
{% endfor %}"""


def model_card(
    base_summary: dict[str, Any],
    base_version: str,
    data_version: str,
    model: ModelSettings,
    settings: dict[str, Any],
    results: dict[str, Any],
) -> str:
    """Markdown with the metadata that the Hugging Face hub reads; the same for the same inputs.

    Args:
        base_summary: ``summary.json`` of the base model.
        base_version: digest of the base model.
        data_version: digest of the training set.
        settings: values that the result depends on, by name.
        results: figures of the training, by name.
    """
    from huggingface_hub import ModelCard, ModelCardData

    licence = base_summary.get("licence")
    source = base_summary.get("source", "unknown base model")
    linked = base_summary.get("hub_id", source if HUB_ID.fullmatch(source) else None)
    metadata = ModelCardData(
        base_model=linked,  # on the hub
        license=licence,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "retune"],
    )
    card = ModelCard.from_template(
        metadata,
        template_str=TEMPLATE,
        source=source,
        revision=base_summary.get("revision") or "not stated",
        dimension=base_summary.get("dimension", "the base's"),
        max_length=base_summary.get("max_length") or model.passage_max_length,
        query_prefix=model.query_prefix,
        passage_prefix=model.passage_prefix,
        base_version=base_version,
        data_version=data_version,
        licence=licence or "not stated",
        results=results,
        settings=settings,
        as_text=_text,
    )
    return str(card)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
