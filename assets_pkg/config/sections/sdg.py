"""The settings of stage 0: synthetic questions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from assets_pkg.config.base import PositiveInt, ProfileOnly, RuntimeOnly, Settings
from resources.chat_model.config import ChatConfig
from resources.endpoints import endpoint_host
from storage.digests import digest_json
from storage.formats.qa_records import QueryType, ReasoningType

HOSTED = "integrate.api.nvidia.com"
HOSTED_REQUESTS_PER_MINUTE = 40.0
Count = Annotated[int, Field(ge=0)]
QUERY_SHARES = {"multi_hop": 3, "structural": 2, "contextual": 2}
REASONING_SHARES = dict.fromkeys(get_args(ReasoningType), 1)


class QuestionSettings(Settings):
    """What the chat model is asked to generate, and which of its pairs are kept.

    ``query_counts`` and ``reasoning_counts`` are exact and must sum to ``num_pairs``; null takes the recipe's
    shares of ``num_pairs``. ``min_hops``..``max_hops`` is the range for multi_hop questions.
    """

    artifact_extraction_model: str
    qa_generation_model: str
    quality_judge_model: str
    base_url: Annotated[str, ProfileOnly]
    generation_temperature: Annotated[float, Field(ge=0, le=2)]
    max_output_tokens: PositiveInt
    max_artifacts_per_type: PositiveInt
    num_pairs: PositiveInt
    query_counts: dict[QueryType, Count] | None
    reasoning_counts: dict[ReasoningType, Count] | None
    min_hops: PositiveInt
    max_hops: PositiveInt
    min_complexity: Annotated[int, Field(ge=1, le=5)]
    similarity_threshold: Annotated[float, Field(gt=0, le=1)]
    prompts_path: str | None

    def query_type_counts(self) -> dict[str, int]:
        """Pairs wanted per query type."""
        return _counts(self.query_counts, QUERY_SHARES, self.num_pairs)

    def reasoning_type_counts(self) -> dict[str, int]:
        """Pairs wanted per reasoning type."""
        return _counts(self.reasoning_counts, REASONING_SHARES, self.num_pairs)

    @model_validator(mode="after")
    def _base_url_is_plain(self) -> QuestionSettings:
        endpoint_host(self.base_url)
        return self

    @model_validator(mode="after")
    def _counts_sum_to_num_pairs(self) -> QuestionSettings:
        for name in ("query_counts", "reasoning_counts"):
            given = getattr(self, name)
            if given is not None and sum(given.values()) != self.num_pairs:
                raise ValueError(
                    f"{name} sum to {sum(given.values())}: must sum to num_pairs = {self.num_pairs}; give all "
                    f"of them, or {name}=null for the recipe's shares"
                )
        return self

    @model_validator(mode="after")
    def _hops_are_a_range(self) -> QuestionSettings:
        if self.min_hops > self.max_hops:
            raise ValueError(f"min_hops = {self.min_hops}: must be <= max_hops = {self.max_hops}")
        return self


class BundleSettings(Settings):
    """Whether questions are about several documents together, and how the segments of those are arranged."""

    num_sections: PositiveInt
    multi_doc: bool
    bundle_size: Annotated[int, Field(ge=2)]
    bundle_strategy: Literal["sequential", "doc_balanced", "interleaved"]
    max_docs_per_bundle: Annotated[int, Field(ge=2)]
    multi_doc_manifest: str | None

    @model_validator(mode="after")
    def _bundles_fit(self) -> BundleSettings:
        if self.multi_doc and self.bundle_size > self.max_docs_per_bundle:
            raise ValueError(
                f"bundle_size = {self.bundle_size}: must be <= max_docs_per_bundle = {self.max_docs_per_bundle}"
            )
        return self


class EndpointSettings(Settings):
    """How the endpoint is used: speed, limits, consent. None of it changes what an answer is.

    ``requests_per_minute: auto`` is 40 at NVIDIA's hosted endpoint, no limit for others; prices are per
    million tokens; ``resume: never`` repeats every request.
    """

    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), RuntimeOnly, ProfileOnly]
    max_parallel_requests_for_gen: Annotated[int, Field(ge=1), RuntimeOnly]
    requests_per_minute: Annotated[Annotated[float, Field(gt=0)] | Literal["auto"] | None, RuntimeOnly]
    tokens_per_minute: Annotated[Annotated[float, Field(gt=0)] | None, RuntimeOnly]
    request_timeout_s: Annotated[float, Field(gt=0), RuntimeOnly]
    retry_deadline_s: Annotated[float, Field(gt=0), RuntimeOnly]
    allow_corpus_egress: Annotated[bool, RuntimeOnly, ProfileOnly]
    approved_endpoints: Annotated[list[str], RuntimeOnly, ProfileOnly]
    max_calls: Annotated[PositiveInt | None, RuntimeOnly]
    max_tokens: Annotated[PositiveInt | None, RuntimeOnly]
    max_cost: Annotated[Annotated[float, Field(gt=0)] | None, RuntimeOnly]
    input_price: Annotated[Annotated[float, Field(ge=0)] | None, RuntimeOnly]
    output_price: Annotated[Annotated[float, Field(ge=0)] | None, RuntimeOnly]
    min_accept_rate: Annotated[float, Field(ge=0, le=1), RuntimeOnly]
    resume: Annotated[Literal["always", "never"], RuntimeOnly]
    preview: Annotated[bool, RuntimeOnly, ProfileOnly]

    def consent(self) -> dict[str, Any]:
        """Where documents may be sent, as encoders behind HTTP take it."""
        return {"allow_egress": self.allow_corpus_egress, "approved_endpoints": self.approved_endpoints}

    @model_validator(mode="after")
    def _cost_has_prices(self) -> EndpointSettings:
        if self.max_cost is not None and (self.input_price is None or self.output_price is None):
            raise ValueError(
                f"max_cost = {self.max_cost:g}: needs input_price and output_price (per million tokens)"
            )
        return self


class SdgSettings(QuestionSettings, BundleSettings, EndpointSettings):
    """Synthetic questions: from an OpenAI-compatible chat model, or offline from the documents' structure."""

    generator: Literal["llm", "offline"]
    sdg_input_path: Annotated[str | None, ProfileOnly]
    embedding_model: str

    def digest(self) -> str:
        """As for every section, but without a chat model its settings decide nothing."""
        if self.sdg_input_path is not None:
            return digest_json({"sdg_input_path": self.sdg_input_path})
        if self.generator == "offline":
            return digest_json({"generator": self.generator})
        return super().digest()


def chat_config(settings: SdgSettings, cache: Path) -> ChatConfig:
    """The endpoint in the settings; ``cache`` is the file of its cached answers."""
    same = {
        name: getattr(settings, name)
        for name in (
            "base_url",
            "api_key_env",
            "max_output_tokens",
            "tokens_per_minute",
            "request_timeout_s",
            "retry_deadline_s",
            "allow_corpus_egress",
            "max_calls",
            "max_tokens",
            "max_cost",
            "input_price",
            "output_price",
        )
    }
    return ChatConfig(
        **same,
        cache=cache,
        temperature=settings.generation_temperature,
        max_parallel=settings.max_parallel_requests_for_gen,
        requests_per_minute=requests_per_minute(settings),
        approved_endpoints=tuple(settings.approved_endpoints),
        reuse_answers=settings.resume == "always",
    )


def requests_per_minute(settings: SdgSettings) -> float | None:
    """The rate limit; ``auto`` is the reported one of NVIDIA's hosted trial keys, and none for other endpoints."""
    if settings.requests_per_minute != "auto":
        return settings.requests_per_minute
    return HOSTED_REQUESTS_PER_MINUTE if endpoint_host(settings.base_url)[0] == HOSTED else None


def _counts(given: Mapping[Any, int] | None, shares: Mapping[str, int], total: int) -> dict[str, int]:
    """The counts given, or ``total`` apportioned by largest remainder (earlier types first on ties)."""
    if given is not None:
        return {name: given.get(name, 0) for name in shares}
    whole = sum(shares.values())
    counts = {name: total * share // whole for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: -(total * shares[name] % whole))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
