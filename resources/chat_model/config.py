"""The settings of one endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ChatConfig:
    """Where to ask, how fast, how long, for how much, and what the user consents to.

    ``cache`` is the SQLite file that keeps every answer; with ``reuse_answers`` false it is written but not
    read. ``None`` means no limit. Prices are per million tokens; ``api_key_env`` only serves messages.
    """

    base_url: str
    cache: Path
    api_key_env: str = "NVIDIA_API_KEY"
    temperature: float = 0.6
    max_output_tokens: int = 8192
    max_parallel: int = 4
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    request_timeout_s: float = 300.0
    retry_deadline_s: float = 900.0
    allow_corpus_egress: bool = False
    approved_endpoints: tuple[str, ...] = ()
    max_calls: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    input_price: float | None = None
    output_price: float | None = None
    reuse_answers: bool = True
