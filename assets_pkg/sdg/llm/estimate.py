"""Estimates calls, tokens, time and cost of a run without calling the chat model: no key and no network needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from assets_pkg.config.sections.corpus import CorpusSettings
from assets_pkg.config.sections.sdg import SdgSettings, requests_per_minute
from assets_pkg.corpus.readers.registry import EXTENSIONS, bytes_per_character
from assets_pkg.sdg.llm.documents import read_sources
from assets_pkg.sdg.llm.extraction import ARTIFACT_TYPES
from assets_pkg.sdg.llm.prompts import load_prompts
from resources.chat_model.client import CHARS_PER_TOKEN
from resources.endpoints import endpoint_host, is_allowed
from storage.artifacts import Corpus, Passages

CALLS_PER_SOURCE = 3
TOKENS_PER_ARTIFACT = 40
TOKENS_PER_PAIR = 160
TOKENS_PER_VERDICT = 150
CHARS_CITED_PER_PAIR = 900  # the judge is sent only the segments that the pairs name


@dataclass(frozen=True)
class Estimate:
    """``minutes`` follow from the request rate (None without one), ``cost`` from the prices (None without). Tokens are
    counted as 4 characters each, without reasoning tokens."""

    host: str
    documents: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    requests_per_minute: float | None
    minutes: float | None
    cost: float | None
    consent: bool
    api_key_env: str

    def lines(self) -> list[str]:
        """The estimate as lines of text."""
        rate = self.requests_per_minute
        time = (
            "as fast as the endpoint is"
            if rate is None
            else f"{self.minutes:.0f} min at {rate:g} requests/min"
        )
        cost = "unknown, no prices set" if self.cost is None else f"{self.cost:.2f}"
        consent = "allowed" if self.consent else "NOT ALLOWED YET (approved_endpoints or allow_corpus_egress)"
        return [
            f"documents  {self.documents}",
            f"endpoint   {self.host}: sending text there is {consent}",
            f"calls      {self.calls} (extract, generate, judge; repairs and retries come on top)",
            f"tokens     about {self.prompt_tokens:,} in, {self.completion_tokens:,} out, reasoning not counted",
            f"time       {time}",
            f"cost       {cost}",
        ]


def estimate(corpus: Corpus, passages: Passages, settings: SdgSettings) -> Estimate:
    """From the documents as the prompts contain them. Cached answers are not subtracted."""
    sources = read_sources(corpus, passages, settings)
    return _estimate((len(source.prompt_text()) for source in sources), settings)


def estimate_folder(folder: Path, corpus: CorpusSettings, settings: SdgSettings) -> Estimate:
    """From file sizes only, before anything was read.

    Raises:
        ValueError: no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"corpus_dir = {folder}: no such folder")
    sizes = list(_file_sizes(folder, corpus))[: corpus.num_files]
    per_source = settings.bundle_size if settings.multi_doc else 1
    bundles = [sum(sizes[start : start + per_source]) for start in range(0, len(sizes), per_source)]
    return _estimate(bundles, settings)


def _file_sizes(folder: Path, corpus: CorpusSettings) -> Iterator[int]:
    extensions = corpus.extensions(EXTENSIONS)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() in extensions:
            size = path.stat().st_size // bytes_per_character(path.name)
            if size >= corpus.min_text_length:
                yield size


def _estimate(source_chars: Iterable[int], settings: SdgSettings) -> Estimate:
    prompts = load_prompts(settings.prompts_path)
    fixed = sum(map(len, (prompts.extract, prompts.generate, prompts.judge))) + CALLS_PER_SOURCE * len(
        prompts.system
    )
    artifacts = len(ARTIFACT_TYPES) * settings.max_artifacts_per_type * TOKENS_PER_ARTIFACT
    pairs, verdicts = settings.num_pairs * TOKENS_PER_PAIR, settings.num_pairs * TOKENS_PER_VERDICT
    documents = prompt_tokens = 0
    for chars in source_chars:
        documents += 1
        text = 2 * chars + min(chars, settings.num_pairs * CHARS_CITED_PER_PAIR)
        prompt_tokens += (text + fixed) // CHARS_PER_TOKEN + artifacts + pairs
    calls, rate = CALLS_PER_SOURCE * documents, requests_per_minute(settings)
    completion_tokens = documents * (artifacts + pairs + verdicts)
    return Estimate(
        host=endpoint_host(settings.base_url)[0],
        documents=documents,
        calls=calls,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        requests_per_minute=rate,
        minutes=None if rate is None else calls / rate,
        cost=_cost(prompt_tokens, completion_tokens, settings),
        consent=is_allowed(settings.base_url, settings.allow_corpus_egress, settings.approved_endpoints),
        api_key_env=settings.api_key_env,
    )


def _cost(prompt_tokens: int, completion_tokens: int, settings: SdgSettings) -> float | None:
    if settings.input_price is None or settings.output_price is None:
        return None
    return (prompt_tokens * settings.input_price + completion_tokens * settings.output_price) / 1e6
