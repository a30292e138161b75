"""The typed profile: every setting of every stage, read from YAML and checked before anything runs.

A profile is a YAML file with one section per stage. It extends another one (``extends: laptop``), down to
``default.yaml``, the single source of default values: the classes below give types and ranges only.
``key=value`` overrides come last. Interpolation is OmegaConf's (``${artifact_root}``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from assets_pkg.stages import BENCHMARKS, STAGES
from resources.accelerator import DEVICES
from resources.chat_model.consent import endpoint_host
from storage.artifact_store import ArtifactError
from storage.digests import digest_json
from storage.formats.qa_records import QueryType, ReasoningType
from storage.remote import check_url, is_url

ENCODER_FIELDS = (
    "query_prefix",
    "passage_prefix",
    "query_max_length",
    "passage_max_length",
    "attn_implementation",
)
PLACE_PREFIX = "run.env."
PROFILE_FOLDER = Path(__file__).parent / "profiles"


class ProfileError(ValueError):
    """A profile or an override that cannot be used; the message names key, value and what is allowed."""


class RuntimeOnly:
    """Marks a setting that changes how a stage runs but not what it makes (batch sizes, time limits)."""


class Settings(BaseModel):
    """A group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def decisive(self) -> dict[str, Any]:
        """The settings that decide a result, as JSON values."""
        names = {
            name
            for name, field in type(self).model_fields.items()
            if not any(mark is RuntimeOnly for mark in field.metadata)
        }
        return self.model_dump(mode="json", include=names)

    def digest(self) -> str:
        """Digest of the settings that decide a result."""
        return digest_json(self.decisive())

    def part(self, group: type[Settings]) -> Any:
        """The settings of one base class of this section, for an asset that reads only those."""
        return group(**{name: getattr(self, name) for name in group.model_fields})


Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
BatchSize = Annotated[int, Field(ge=1), RuntimeOnly]
Count = Annotated[int, Field(ge=0)]
QUERY_SHARES = {"multi_hop": 3, "structural": 2, "contextual": 2}
REASONING_SHARES = dict.fromkeys(get_args(ReasoningType), 1)


class CorpusSettings(Settings):
    """What to read: a folder, or ``pydoc://stdlib`` for the running interpreter's own documentation.

    ``metadata_fields``: which of the documents' own fields (YAML front matter, ``metadata.jsonl``) are kept.
    """

    corpus_dir: str
    file_extensions: list[str]
    min_text_length: Annotated[int, Field(ge=0)]
    num_files: PositiveInt | None
    metadata_fields: list[str] | None


class PassageSettings(Settings):
    """How documents are cut into passages."""

    sentences_per_chunk: PositiveInt


class ModelSettings(Settings):
    """The embedding model that is adapted, and the one prompt contract and precision that every stage embeds with.

    ``embed_precision`` bf16 is several times faster on a GPU, and moves nDCG in the third decimal.
    """

    base_model: str
    revision: str | None
    query_prefix: str
    passage_prefix: str
    query_max_length: PositiveInt
    passage_max_length: PositiveInt
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"]
    embed_precision: Literal["fp32", "bf16"]
    trust_remote_code: bool

    def contract(self) -> dict[str, Any]:
        """The settings that decide a text's vector, given the model."""
        return {name: getattr(self, name) for name in (*ENCODER_FIELDS, "embed_precision")}

    def encoder_config(self) -> dict[str, Any]:
        """The prompt contract and the precision, as an encoder takes them."""
        given = {name: getattr(self, name) for name in ENCODER_FIELDS}
        return {**given, "precision": self.embed_precision}


class QuestionSettings(Settings):
    """What is asked of the chat model, and which of its pairs are taken.

    ``query_counts`` and ``reasoning_counts`` are exact and must sum to ``num_pairs``; null takes the recipe's
    shares of ``num_pairs``. ``min_hops``..``max_hops`` is the range for multi_hop questions.
    """

    artifact_extraction_model: str
    qa_generation_model: str
    quality_judge_model: str
    base_url: str
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
    """Whether several documents are asked about together, and how their segments are laid out."""

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

    ``requests_per_minute: auto`` is 40 at NVIDIA's hosted endpoint and no limit elsewhere; prices are per
    million tokens; ``resume: never`` asks everything anew.
    """

    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), RuntimeOnly]
    max_parallel_requests_for_gen: Annotated[int, Field(ge=1), RuntimeOnly]
    requests_per_minute: Annotated[Annotated[float, Field(gt=0)] | Literal["auto"] | None, RuntimeOnly]
    tokens_per_minute: Annotated[Annotated[float, Field(gt=0)] | None, RuntimeOnly]
    request_timeout_s: Annotated[float, Field(gt=0), RuntimeOnly]
    retry_deadline_s: Annotated[float, Field(gt=0), RuntimeOnly]
    allow_corpus_egress: Annotated[bool, RuntimeOnly]
    approved_endpoints: Annotated[list[str], RuntimeOnly]
    max_calls: Annotated[PositiveInt | None, RuntimeOnly]
    max_tokens: Annotated[PositiveInt | None, RuntimeOnly]
    max_cost: Annotated[Annotated[float, Field(gt=0)] | None, RuntimeOnly]
    input_price: Annotated[Annotated[float, Field(ge=0)] | None, RuntimeOnly]
    output_price: Annotated[Annotated[float, Field(ge=0)] | None, RuntimeOnly]
    min_accept_rate: Annotated[float, Field(ge=0, le=1), RuntimeOnly]
    resume: Annotated[Literal["always", "never"], RuntimeOnly]
    preview: Annotated[bool, RuntimeOnly]

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
    sdg_input_path: str | None
    embedding_model: str

    def digest(self) -> str:
        """As for every section, but a generator that asks no model does not depend on what would be asked."""
        if self.sdg_input_path is not None:
            return digest_json({"sdg_input_path": self.sdg_input_path})
        if self.generator == "offline":
            return digest_json({"generator": self.generator})
        return super().digest()


class SplitSettings(Settings):
    """Filter and split of QA pairs, by document or bundle.

    ``split_strategy``: ``random`` cuts the shuffled documents; the others keep groups of documents together:
    those of ``groups_json`` (``dedupped``: overlapping groups become one; ``cluster``: none may overlap), or
    those found to be nearly the same text (``near_duplicate``).
    """

    quality_threshold: Annotated[float, Field(ge=0, le=10)]
    train_ratio: Fraction
    val_ratio: Fraction
    test_ratio: Fraction
    conversion_seed: int
    max_pos_docs: PositiveInt
    split_strategy: Literal["random", "dedupped", "cluster", "near_duplicate"]
    groups_json: str | list[str] | None
    near_duplicate_threshold: Annotated[float, Field(gt=0, le=1)]

    @property
    def groups_files(self) -> list[Path]:
        """The files of ``groups_json`` that the strategy reads."""
        if self.split_strategy not in ("dedupped", "cluster") or self.groups_json is None:
            return []
        names = [self.groups_json] if isinstance(self.groups_json, str) else self.groups_json
        return [Path(name) for name in names]


class TrainingSourceSettings(Settings):
    """Where training questions come from, if not from the pairs: a ``train.json`` or a mined file."""

    train_input_file: str | None


class ExamSettings(Settings):
    """The exam: split from the pairs, or the BEIR folder ``eval_data_path``; once frozen it stays as it is."""

    eval_data_path: str | None
    use_group_id_in_eval: bool
    freeze_eval_set: bool


class CheckSettings(Settings):
    """When a check of the sets says stop: the share of exam questions whose text or answer nearly occurs in
    training."""

    max_near_duplicate_share: Annotated[Fraction, RuntimeOnly]


class MiningSettings(Settings):
    """Hard negatives: the highest-scoring passages that the margin does not suspect of being positives.

    ``too_few_negatives``: a question that the margin leaves fewer than ``hard_negatives_to_mine`` keeps what it
    has (``keep``), is filled up with the lowest-scoring of the suspected passages (``fill``), or is left out
    (``drop``). ``mining_processes``: how many search at most; null: one on each GPU, one on a CPU (it uses all
    cores).
    """

    hard_negatives_to_mine: PositiveInt
    hard_neg_margin_type: Literal["perc", "abs"]
    hard_neg_margin: Fraction
    mining_batch_size: BatchSize
    mining_processes: Annotated[PositiveInt | None, RuntimeOnly]
    too_few_negatives: Literal["keep", "fill", "drop"]


class PrepSettings(SplitSettings, TrainingSourceSettings, ExamSettings, CheckSettings, MiningSettings):
    """Stage 1."""

    @model_validator(mode="after")
    def _groups_are_given(self) -> PrepSettings:
        if self.split_strategy in ("dedupped", "cluster") and not self.groups_json:
            raise ValueError(
                f"split_strategy = {self.split_strategy!r}: needs groups_json; near_duplicate finds groups itself"
            )
        return self

    @model_validator(mode="after")
    def _ratios_sum_to_one(self) -> PrepSettings:
        total = self.train_ratio + self.val_ratio + self.test_ratio
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train_ratio + val_ratio + test_ratio = {total:g}: must be 1")
        return self


class FinetuneSettings(Settings):
    """Stage 2. ``method``: ``full`` trains the model (or adapters inside it, with ``lora_rank``), ``adapter`` one
    matrix on its vectors, in seconds."""

    method: Literal["full", "adapter"]
    num_epochs: PositiveInt
    global_batch_size: PositiveInt
    local_batch_size: BatchSize
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    lr_scheduler: Literal["cosine", "linear", "constant"]
    warmup_ratio: Fraction
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    temperature: Annotated[float, Field(gt=0, le=1)]
    train_n_passages: Annotated[int, Field(ge=1)]
    in_batch_negatives: bool
    dropout: Fraction
    precision: Literal["auto", "fp32", "bf16"]
    seed: int
    checkpoint_every_steps: Annotated[int, Field(ge=1), RuntimeOnly]
    headroom_ndcg: Fraction
    headroom_loss: Annotated[float, Field(ge=0)]
    matryoshka_dims: list[PositiveInt]
    lora_rank: PositiveInt | None
    gradient_checkpointing: Annotated[bool, RuntimeOnly]
    merge_with_base: bool
    early_stop_patience: PositiveInt | None
    num_processes: Annotated[int, Field(ge=1), RuntimeOnly]
    wandb_project: Annotated[str | None, RuntimeOnly]


class IntervalSettings(Settings):
    """How intervals are made, for every measurement."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    bootstrap_samples: Annotated[int, Field(ge=100)]
    bootstrap_seed: int


class EvalSettings(IntervalSettings):
    """Stage 3: what is measured. ``eval_dimensions``: shorter vectors that are measured beside the full ones."""

    k_values: Annotated[list[PositiveInt], Field(min_length=1)]
    eval_dimensions: list[PositiveInt]
    eval_base: bool
    eval_finetuned: bool
    eval_nim: Annotated[bool, RuntimeOnly]
    fail_on_nim_metric_drift: Annotated[bool, RuntimeOnly]
    eval_batch_size: BatchSize


class GateSettings(Settings):
    """When a checkpoint is promoted: ``metric`` must gain at least ``min_delta``, with an interval above zero, and
    no other metric may lose more than ``max_regression``, with an interval below zero."""

    metric: str
    min_delta: Annotated[float, Field(ge=0, le=1)]
    max_regression: Annotated[float, Field(ge=0, le=1)]


class TensorrtSettings(Settings):
    """The engine's shapes (batch and sequence at least, usually, at most) and numbers.

    ``trt_layer_precisions`` are ``layer:precision``, such as ``*LayerNorm*:fp32``.
    """

    export_to_trt: bool
    trt_precision: Literal["fp32", "fp16", "bf16"]
    trt_min_batch: PositiveInt
    trt_opt_batch: PositiveInt
    trt_max_batch: PositiveInt
    trt_min_seq: PositiveInt
    trt_opt_seq: PositiveInt
    trt_max_seq: PositiveInt
    trt_layer_precisions: list[Annotated[str, Field(pattern=r"^[^:,]+:(fp32|fp16|bf16|int8)$")]]

    @model_validator(mode="after")
    def _shapes_ascend(self) -> TensorrtSettings:
        for name in ("batch", "seq"):
            least, usual, most = (getattr(self, f"trt_{place}_{name}") for place in ("min", "opt", "max"))
            if not least <= usual <= most:
                raise ValueError(f"trt_opt_{name} = {usual}: must lie between {least} and {most}")
        return self


class GraphSettings(Settings):
    """The exported graph."""

    opset: Annotated[int, Field(ge=17)]
    export_dtype: Literal["fp32", "fp16", "int8_weights", "int8_dynamic"]
    attn_implementation: Literal["eager", "sdpa"]
    max_cosine_distance: Annotated[float, Field(gt=0, le=1), RuntimeOnly]
    min_top10_overlap: Annotated[float, Field(ge=0, le=1), RuntimeOnly]
    max_ndcg_loss: Annotated[float, Field(ge=0, le=1), RuntimeOnly]


class ExportSettings(GraphSettings, TensorrtSettings):
    """Stage 4."""


class DeploySettings(Settings):
    """Stage 5."""

    backend: Literal["process", "docker", "vllm"]
    served_model_name: str
    server: Literal["retune", "nim"]
    server_image: str
    nim_image: str
    use_onnx: bool
    gpus: Annotated[str, Field(pattern=r"^(all|[1-9][0-9]*|device=[\w:,-]+)$")] | None
    shm_size: Annotated[Annotated[str, Field(pattern=r"^[0-9]+[bkmg]?$")] | None, RuntimeOnly]
    container_name: Annotated[str, RuntimeOnly]
    host: str
    host_port: Port
    startup_timeout_s: Annotated[float, Field(gt=0), RuntimeOnly]
    max_client_batch_size: Annotated[int, Field(ge=1), RuntimeOnly]
    verify_fingerprint: Annotated[bool, RuntimeOnly]


class ReindexSettings(Settings):
    """The corpus embedded by the promoted model, and the index that search reads."""

    encoder: Literal["local", "nim"]
    store: Literal["lancedb", "milvus"]
    milvus_uri: str
    milvus_token_env: Annotated[str, RuntimeOnly]
    index_type: Literal["auto", "exact", "ivf", "hnsw"]
    index_parameters: dict[str, PositiveInt]
    exact_below: Annotated[int, Field(ge=0)]
    dimensions: PositiveInt | None
    min_index_recall: Annotated[float, Field(ge=0, le=1), RuntimeOnly]
    eval_tolerance: Annotated[float, Field(ge=0), RuntimeOnly]


class JudgeSettings(Settings):
    """Which captions are judged, and by which models of the registry."""

    references: str | None
    predictions_dir: str | None
    judge_models: Annotated[list[str], Field(min_length=1)]
    min_judges: Annotated[int, Field(ge=1), RuntimeOnly]
    allow_gaps: bool


class PairSettings(Settings):
    """Which pairs of image and text: ``colours://xkcd``, a folder of images with texts, or a table."""

    pairs: str
    num_pairs_limit: PositiveInt | None


class CaptionSettings(Settings):
    """How images are told in words: not at all, by the nearest named colour, or by a vision model."""

    captioner: Literal["none", "nearest_colour", "vlm"]
    caption_model: str
    caption_base_url: str
    caption_prompt: str
    caption_system: str | None
    caption_max_tokens: PositiveInt

    def digest(self) -> str:
        """As for every section, but where no model is asked nothing depends on what would be asked."""
        return super().digest() if self.captioner == "vlm" else digest_json({"captioner": self.captioner})


class ScoreSettings(Settings):
    """Which models of the registry embed images and texts, and what is counted."""

    image_text_models: Annotated[list[str], Field(min_length=1)]
    recall_at: Annotated[list[PositiveInt], Field(min_length=1)]
    fuse_captions: bool


class ImageTextSettings(PairSettings, CaptionSettings, ScoreSettings):
    """The image-text benchmark."""


class AcceleratorSettings(Settings):
    """The device that training and embedding run on. With ``check_memory`` a stage is refused before its weights are
    loaded when it would need more memory than is free."""

    device: Annotated[str, Field(pattern=DEVICES), RuntimeOnly]
    check_memory: Annotated[bool, RuntimeOnly]


class AutomationSettings(Settings):
    """What runs by itself."""

    reindex_sensor_seconds: Annotated[int, Field(ge=5)]
    corpus_sensor_seconds: Annotated[int, Field(ge=5)]
    corpus_quiet_seconds: Annotated[float, Field(ge=0)]
    server_sensor_seconds: Annotated[int, Field(ge=5)]
    batch_sensor_seconds: Annotated[int, Field(ge=5)]
    refresh_cron: str
    measure_cron: str
    timezone: str
    index_max_age_hours: Annotated[float, Field(gt=0)]
    index_may_lag_minutes: Annotated[float, Field(ge=0)]


class ComputeSettings(Settings):
    """Where stages run: a place of ``env_file``, or ``inline`` for this process. ``overrides`` replaces keys of the
    place (``run.env.key=value``)."""

    env_file: str
    run_on: str
    stages: dict[str, str]
    overrides: dict[str, str]

    @field_validator("stages")
    @classmethod
    def _stages_exist(cls, given: dict[str, str]) -> dict[str, str]:
        for stage in given:
            if stage not in (*STAGES, *BENCHMARKS):
                raise ValueError(f"no stage {stage!r}: choose from {', '.join((*STAGES, *BENCHMARKS))}")
        return given


class Profile(Settings):
    """Every setting of one project."""

    artifact_root: str
    corpus: CorpusSettings
    passages: PassageSettings
    model: ModelSettings
    sdg: SdgSettings
    prep: PrepSettings
    finetune: FinetuneSettings
    eval: EvalSettings
    gate: GateSettings
    export: ExportSettings
    deploy: DeploySettings
    reindex: ReindexSettings
    judges: JudgeSettings
    image_text: ImageTextSettings
    accelerator: AcceleratorSettings
    automation: AutomationSettings
    compute: ComputeSettings

    @field_validator("artifact_root")
    @classmethod
    def _root_holds_no_key(cls, root: str) -> str:
        try:
            return check_url(root) if is_url(root) else root
        except ArtifactError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _enough_negatives(self) -> Profile:
        mined, used = self.prep.hard_negatives_to_mine, self.finetune.train_n_passages - 1
        if mined < used:
            raise ValueError(
                f"prep.hard_negatives_to_mine = {mined}: must be >= finetune.train_n_passages - 1 = {used}"
            )
        return self

    @model_validator(mode="after")
    def _loss_has_negatives(self) -> Profile:
        if not self.finetune.in_batch_negatives and self.finetune.train_n_passages < 2:
            raise ValueError(
                "finetune.train_n_passages = 1: must be >= 2 when finetune.in_batch_negatives is false, "
                "else the loss has nothing to contrast with"
            )
        return self

    @model_validator(mode="after")
    def _gate_metric_is_measured(self) -> Profile:
        measured = {
            f"{name}@{k}" for name in ("NDCG", "MAP", "Recall", "P", "MRR") for k in self.eval.k_values
        }
        if self.gate.metric not in measured:
            raise ValueError(
                f"gate.metric = {self.gate.metric!r}: must be one of {', '.join(sorted(measured))}"
            )
        return self


def _counts(given: Mapping[Any, int] | None, shares: Mapping[str, int], total: int) -> dict[str, int]:
    """The counts given, or ``total`` shared out by largest remainder (earlier types first on ties)."""
    if given is not None:
        return {name: given.get(name, 0) for name in shares}
    whole = sum(shares.values())
    counts = {name: total * share // whole for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: -(total * shares[name] % whole))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def load_profile(name: str, overrides: Sequence[str] = (), *, section: str | None = None) -> Profile:
    """Read a profile by name or path and apply ``key=value`` overrides.

    A key is ``stage.key``, or a bare ``key``: looked up in ``section`` (the stage whose command is run) first,
    then wherever exactly one section has it.

    Raises:
        ProfileError: unknown profile, unknown or ambiguous key, value of a wrong type or out of range.
    """
    source = ", ".join([f"profile {name}", *(["overrides"] if overrides else [])])
    try:
        merged = _read(name, seen=())
        for text in overrides:
            key, value = _parse_override(text)
            OmegaConf.update(merged, _full_key(key, section), value, force_add=True)
        values = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ProfileError(f"{source}: {str(error).splitlines()[0]}") from error
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        raise ProfileError("\n".join(f"{source}: {line}" for line in _explain(error))) from error


def profile_names() -> list[str]:
    """The profiles that come with Retune."""
    return sorted(path.stem for path in PROFILE_FOLDER.glob("*.yaml"))


def _read(name: str, seen: tuple[str, ...]) -> DictConfig:
    if name in seen:
        raise ProfileError(f"profile {name} extends itself: {' -> '.join([*seen, name])}")
    path = _find(name)
    try:
        config = OmegaConf.load(path)
    except Exception as error:
        raise ProfileError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(config, DictConfig):
        raise ProfileError(f"{path}: must be a mapping of sections")
    parent = config.pop("extends", None if name == "default" else "default")
    if parent is None:
        return config
    merged = OmegaConf.merge(_read(parent, (*seen, name)), config)
    assert isinstance(merged, DictConfig)
    return merged


def _find(name: str) -> Path:
    builtin = PROFILE_FOLDER / f"{name}.yaml"
    if builtin.exists():
        return builtin
    if Path(name).is_file():
        return Path(name)
    raise ProfileError(
        f"profile {name!r}: no such file, nor one of the built-in profiles {', '.join(profile_names())}"
    )


def _parse_override(text: str) -> tuple[str, Any]:
    key, found, _ = text.partition("=")
    if key.startswith(PLACE_PREFIX):
        key = f"compute.overrides.{key.removeprefix(PLACE_PREFIX)}"
        return key, text.partition("=")[2]
    if not found or not key.strip():
        raise ProfileError(f"override {text!r}: must have the form key=value or stage.key=value")
    parsed = OmegaConf.from_dotlist([f"value={text.partition('=')[2]}"])
    return key.strip(), parsed.get("value")


def _full_key(key: str, section: str | None) -> str:
    """``stage.key`` for a bare or full override key."""
    sections = _sections()
    if key in Profile.model_fields and key not in sections:
        return key
    stage, dot, rest = key.partition(".")
    if dot:
        if stage not in sections or rest.partition(".")[0] not in sections[stage].model_fields:
            raise ProfileError(f"override key {key!r}: no such setting{_suggest(key, list(_all_keys()))}")
        return key
    homes = [name for name, group in sections.items() if key in group.model_fields]
    if section in homes:
        return f"{section}.{key}"
    if len(homes) == 1:
        return f"{homes[0]}.{key}"
    if homes:
        choices = ", ".join(f"{home}.{key}" for home in homes)
        raise ProfileError(f"override key {key!r} is ambiguous: write one of {choices}")
    bare = [full.partition(".")[2] or full for full in _all_keys()]
    raise ProfileError(f"override key {key!r}: no such setting{_suggest(key, bare)}")


def _sections() -> dict[str, type[Settings]]:
    return {
        name: field.annotation
        for name, field in Profile.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    }


def _all_keys() -> Iterator[str]:
    for name in Profile.model_fields:
        group = _sections().get(name)
        yield from [name] if group is None else [f"{name}.{key}" for key in group.model_fields]


def _suggest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _explain(error: ValidationError) -> Iterator[str]:
    for detail in error.errors():
        key = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            yield f"{key} = {detail['input']!r}: no such setting{_suggest(key, list(_all_keys()))}"
        elif detail["type"] == "value_error":
            yield f"{key + ': ' if key else ''}{detail.get('ctx', {}).get('error')}"
        else:
            value = "" if detail["type"] == "missing" else f" = {detail['input']!r}"
            yield f"{key}{value}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
