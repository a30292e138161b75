"""One model as the registry describes it: what it is, how it must be called, who may use it, where it is served."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from resources.secret_values import refuse_secrets

Modality = Literal["text", "image", "text_image"]
Adapter = Literal["sentence_transformer", "onnx", "dual_tower", "qwen3_vl", "http"]
Dialect = Literal["local", "openai", "nim", "vllm", "infinity", "jina", "voyage", "deepinfra", "llama_cpp"]
Pooling = Literal["mean", "cls", "last", "eos", "attention", "latent_attention"]

PositiveInt = Annotated[int, Field(ge=1)]
BYTES_PER_PARAMETER = 2
GIGABYTE = 1e9


class Facts(BaseModel):
    """A group of facts; unknown keys are errors, so that a misspelt fact is not silently a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True)


class Prompts(Facts):
    """What is put before a text. ``{task}`` in ``query`` is filled with ``task``."""

    query: str = ""
    passage: str = ""
    task: str | None = None

    def prefix(self, role: Literal["query", "passage"], task: str | None = None) -> str:
        """The text put before every input of this role; ``task`` replaces the registered one."""
        pattern = self.query if role == "query" else self.passage
        return pattern.replace("{task}", task or self.task or "")

    @model_validator(mode="after")
    def _task_is_given(self) -> Prompts:
        if "{task}" in self.query + self.passage and not self.task:
            raise ValueError("prompts use {task} but give no task")
        return self


class ImageLimits(Facts):
    """What an image is resized to: sides are multiples of ``factor``, the area lies between the limits."""

    min_pixels: PositiveInt
    max_pixels: PositiveInt
    factor: PositiveInt


class Endpoint(Facts):
    """One route of an embedding service. ``output_field`` is a path such as ``data[0].embedding``."""

    path: str
    method: Literal["POST"] = "POST"
    input_field: str = "input"
    output_field: str = "embedding"
    model: str | None = None
    wrap_input: bool = False
    input_wrapper_key: str | None = None


class ModelEntry(Facts):
    """All facts of one model; all are optional except those that locate the model.

    ``hub_id``/``revision`` say which weights; ``dimensions``, ``max_tokens`` (special tokens included),
    ``pooling``, ``padding_side`` and ``attention`` describe what the model computes, None where unknown.
    ``append_eos``: an end token belongs behind every text. ``pad_to_max``: texts are always padded to
    ``max_tokens``. ``folder`` is its name below ``embedding_models/``; ``package`` an installed package (and
    path in it) that holds the weights. ``requires`` are version ranges of packages. ``sources`` names where
    facts come from, by fact and ``default``; facts in ``unverified`` were not seen first-hand. ``languages``: what the
    model was trained for, None where unknown.

    The second half is how the model is reached over HTTP: ``provider_type`` and the endpoints as in the
    colour benchmark's ``models.yaml`` (github.com/mindthemath/color-perception-bench); ``dialect`` names the
    request shape where the server is none of those.
    """

    hub_id: str | None = None
    aliases: list[str] = []
    revision: str | None = None
    license: str | None = None
    license_url: str | None = None
    commercial_use: bool | None = None
    languages: Literal["english", "multilingual"] | None = None
    modalities: Annotated[list[Modality], Field(min_length=1)] = ["text"]
    parameters: PositiveInt | None = None
    dimensions: PositiveInt | None = None
    matryoshka_dims: list[PositiveInt] = []
    max_tokens: PositiveInt | None = None
    advised_tokens: PositiveInt | None = None
    pooling: Pooling | None = None
    padding_side: Literal["left", "right"] | None = None
    pad_to_max: bool = False
    attention: Literal["bidirectional", "causal"] | None = None
    append_eos: bool = False
    lowercase: bool = False
    prompts: Prompts = Prompts()
    image: ImageLimits | None = None
    adapter: Adapter
    model_types: list[str] = []
    dtype: Literal["fp32", "bf16", "fp16", "int8"] = "bf16"
    folder: str | None = None
    package: str | None = None
    requires: dict[str, str] = {}
    sources: dict[str, str] = {}
    unverified: list[str] = []
    notes: str = ""

    provider_type: Literal["local", "openai_compatible"] | None = None
    dialect: Dialect | None = None
    base_url: str | None = None
    text_endpoint: Endpoint | None = None
    image_endpoint: Endpoint | None = None
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    task: str | None = None
    user_batch_size: PositiveInt = 32
    rate_limit_delay: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _fill_provider(cls, values: Any) -> Any:
        """The defaults of the provider form: a minimal entry is a name, a provider type and a URL. No value holds a
        password or key."""
        if not isinstance(values, dict):
            return values
        facts = refuse_secrets(dict(cast("dict[str, Any]", values)))
        if "api_key_env_var" in facts:
            facts.setdefault("api_key_env", facts.pop("api_key_env_var"))
        kind = facts.get("provider_type")
        if kind is None:
            return facts
        facts.setdefault("adapter", "http")
        local = kind == "local"
        facts.setdefault("dialect", "local" if local else "openai")
        if facts["adapter"] == "http":
            facts.setdefault("modalities", ["text", "image"])
        default = {"path": "/embeddings", "output_field": "data[0].embedding"}
        facts.setdefault("text_endpoint", {"path": "/txt/embed"} if local else default)
        facts.setdefault("image_endpoint", {"path": "/img/embed"} if local else default)
        return facts

    @field_validator("base_url")
    @classmethod
    def _no_slash(cls, value: str | None) -> str | None:
        return value.rstrip("/") if value else value

    @model_validator(mode="after")
    def _is_reachable(self) -> ModelEntry:
        if self.provider_type is not None and self.base_url is None:
            raise ValueError(f"provider_type {self.provider_type} needs a base_url")
        if self.adapter != "http" and not (self.hub_id or self.folder or self.package):
            raise ValueError(f"adapter {self.adapter} needs a hub_id, a folder or a package")
        return self

    @model_validator(mode="after")
    def _facts_agree(self) -> ModelEntry:
        if self.dimensions is not None:
            too_large = [dim for dim in self.matryoshka_dims if dim > self.dimensions]
            if too_large:
                raise ValueError(f"matryoshka_dims {too_large} exceed dimensions {self.dimensions}")
        known = set(type(self).model_fields)
        stray = [name for name in [*self.sources, *self.unverified] if name not in known | {"default"}]
        if stray:
            raise ValueError(f"sources and unverified name no facts: {', '.join(stray)}")
        return self

    @property
    def disk_bytes(self) -> int | None:
        """Approximate size of the published weights: two bytes for each parameter."""
        return None if self.parameters is None else self.parameters * BYTES_PER_PARAMETER

    @property
    def memory_bytes(self) -> int | None:
        """Approximate memory of the loaded weights in ``dtype``, without activations."""
        size = {"fp32": 4, "int8": 1}.get(self.dtype, 2)
        return None if self.parameters is None else self.parameters * size

    @property
    def text_tokens(self) -> int | None:
        """The longest text worth embedding: the advised length where there is one."""
        return self.advised_tokens or self.max_tokens

    def source_of(self, fact: str) -> str:
        """Where a fact comes from, and whether it was checked at first hand."""
        source = self.sources.get(fact) or self.sources.get("default") or "no source recorded"
        return f"{source} (unverified)" if fact in self.unverified else source
