"""Where things lie below the artifact root: the recipe's names, and Retune's own caches and state."""

from __future__ import annotations

EMBEDDING_CACHE = ".cache/embeddings"
