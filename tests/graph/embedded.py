"""What encoders compute during a run, as JSON for the tests of a finished project."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from resources.encoders.base import Role
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from storage.digests import digest_file, digest_json

FILE = "embedded.json"


@contextmanager
def written_to(path: Path) -> Generator[None]:
    """Writes into ``path`` how often each text went through the network of each model meanwhile.

    A model is known by its weights and precision, a text by its tokens, which include the prompt: not by the names
    that the cache has for them. Vectors that training computes of itself, between two of its steps, are not counted.
    """
    computed: Counter[tuple[str, str]] = Counter()
    forward: Any = SentenceTransformerEncoder._forward

    def counting(self: SentenceTransformerEncoder, features: Any, role: Role) -> Any:
        weights = digest_file(next(self.folder.rglob("model.safetensors")))
        lengths = features["attention_mask"].sum(dim=1).tolist()
        for row, length in zip(features["input_ids"].tolist(), lengths, strict=True):
            computed[f"{weights} {self.config.precision}", digest_json(row[:length])] += 1
        return forward(self, features, role)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SentenceTransformerEncoder, "_forward", counting)
        yield
    path.write_text(json.dumps([[*key, times] for key, times in computed.items()]))
