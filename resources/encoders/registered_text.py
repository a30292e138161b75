"""A registered text model: by its folder's own sentence-transformers modules; where it has none, or brings code of
its own, by a stock network configured by the registry. Remote code is never run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from resources.encoders.base import Role
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.items import Input, Observation, as_items
from resources.encoders.loading import DTYPES, load_checked, transformers, unit
from resources.encoders.qwen3_vl import last_token
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from resources.machine.accelerator import Accelerator
from resources.models.entry import Modality, ModelEntry, Pooling
from resources.models.files import facts_digest, read_config, tokenizer_folder, transformer_folder
from resources.models.naming import NamedModel, own_settings
from storage.digests import digest_json
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from resources.encoders.base import Vectors

MODALITIES: tuple[Modality, ...] = ("text",)
DEFAULT_TOKENS = 512
POOLINGS: dict[str, str] = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
"""The registry's poolings that are of token states, and sentence-transformers' names of them."""

STOCK_TYPES = {"llama_bidirec": "llama"}
"""Names of remote code that is a stock network with its causal mask taken away."""


class RegisteredTextEncoder(SentenceTransformerEncoder):
    """`SentenceTransformerEncoder` of a registry entry: with its prompts, length, pooling, padding side, end token and
    direction of attention; what the entry does not say is the folder's.

    ``replaced`` has, once loaded, the facts of which the folder's own modules say something else.

    ``config.is_causal = False`` makes the decoders of transformers 5 attend in both directions, exactly and
    whatever the padding, for which older checkpoints bring remote code that is silently causal on padded batches.
    """

    def __init__(
        self,
        folder: Path,
        entry: ModelEntry,
        model_digest: str,
        accelerator: Accelerator,
        batch_size: int = 32,
    ):
        own = own_settings(NamedModel(folder.name, folder, entry=entry))
        length = own.max_length or DEFAULT_TOKENS
        config = EncoderConfig(
            query_prefix=own.query or "",
            passage_prefix=own.passage or "",
            query_max_length=length,
            passage_max_length=length,
            batch_size=batch_size,
        )
        super().__init__(folder, model_digest, accelerator, config)
        self.entry = entry
        self.replaced: dict[str, str] = {}

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return MODALITIES

    def identity(self, role: Role) -> str:
        return digest_json([super().identity(role), facts_digest(self.entry)])

    def embed(self, texts: Sequence[Input], role: Role, progress: Progress = no_progress) -> Vectors:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As `ItemEncoder.embed`, texts only. Raises `ItemError` for images."""
        items = as_items(texts, MODALITIES, self.folder.name)
        return super().embed([item.text or "" for item in items], role, progress)

    def observe(self, texts: Sequence[str], role: Role) -> Observation:
        """See `Observable`."""
        import torch

        model: Any = self._load()
        tokenizer = model.tokenizer
        features = tokenizer(
            [self.config.prefix(role) + text for text in texts],
            padding=True,
            truncation=True,
            max_length=self.config.max_length(role),
            return_tensors="pt",
        ).to(self._accelerator.device)
        tokens, mask = features["input_ids"], features["attention_mask"]
        with torch.inference_mode():
            output = model({**features, "modality": "text"})
        return Observation(
            tokens.cpu().numpy(),
            mask.cpu().numpy(),
            output["token_embeddings"].float().cpu().numpy(),
            unit(output["sentence_embedding"]),
        )

    def _load_checked(self) -> SentenceTransformer:
        return load_checked(self.folder, self._open)

    def _open(self) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer

        from resources.encoders.packed_linear import for_inference

        if (self.folder / "modules.json").is_file() and not _has_remote_code(self.folder):
            device, dtype = self._accelerator.device, self._dtype()
            options: dict[str, Any] = {"model_kwargs": {"dtype": dtype}, "local_files_only": True}
            model = SentenceTransformer(str(self.folder), device=device, **options)
            self._apply_facts(model)
            return for_inference(model, device, int8=self._int8)
        return cast("SentenceTransformer", self._assemble())

    def _apply_facts(self, model: SentenceTransformer) -> None:
        """Give the folder's own modules what the registry says; note where they had something else."""
        entry, network = self.entry, cast("Any", model[0]).auto_model
        self.replaced = {}
        if entry.attention is not None and is_decoder(network.config.to_dict()):
            causal = entry.attention == "causal"
            if getattr(network.config, "is_causal", True) != causal:
                self.replaced["attention"] = "bidirectional" if causal else "causal"
            network.config.is_causal = causal
        for module in cast("Iterator[Any]", model):
            wanted = POOLINGS.get(str(entry.pooling))
            if type(module).__name__ == "Pooling" and wanted is not None and module.pooling_mode != wanted:
                self.replaced["pooling"] = str(module.pooling_mode)
                module.pooling_mode = wanted
        self._prepare(model.tokenizer)

    def _prepare(self, tokenizer: Any) -> None:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if self.entry.padding_side is not None:
            tokenizer.padding_side = self.entry.padding_side
        if self.entry.append_eos:
            append_end_token(tokenizer)

    def _assemble(self) -> PooledNetwork:
        """The network with the registry's attention, padding, end token and pooling."""
        if self.entry.pooling not in POOLINGS:
            raise ValueError(
                f"it brings code or no modules.json, and the registry's pooling is {self.entry.pooling!r}, none of "
                f"{', '.join(POOLINGS)}"
            )
        from resources.encoders.packed_linear import for_inference

        hf, folder = transformers(), str(transformer_folder(self.folder))
        config = _stock_config(transformer_folder(self.folder))
        if self.entry.attention is not None:
            config.is_causal = self.entry.attention == "causal"
        network = hf.AutoModel.from_pretrained(
            folder, config=config, local_files_only=True, dtype=self._dtype(), trust_remote_code=False
        )
        tokenizer = hf.AutoTokenizer.from_pretrained(
            str(tokenizer_folder(self.folder)), local_files_only=True, trust_remote_code=False
        )
        self._prepare(tokenizer)
        network = for_inference(network, self._accelerator.device, int8=self._int8)
        return PooledNetwork(network, tokenizer, self.entry.pooling)

    @property
    def _int8(self) -> bool:
        return self.entry.dtype == "int8"

    @property
    def _weight_bytes(self) -> int:
        return 1 if self._int8 else 4 if self._dtype() == "float32" else 2

    def _dtype(self) -> str:
        return DTYPES[self.entry.dtype] if self._accelerator.device != "cpu" else "float32"


class PooledNetwork:
    """A transformers network and a pooling, called as a `SentenceTransformer` is."""

    modalities = ("text",)

    def __init__(self, network: Any, tokenizer: Any, pooling: Pooling):
        self.network = network
        self.tokenizer = tokenizer
        self.config = network.config
        self._pooling: Pooling = pooling

    def get_embedding_dimension(self) -> int:
        return int(self.config.hidden_size)

    def modules(self) -> Iterator[Any]:
        return self.network.modules()

    def __call__(self, features: dict[str, Any]) -> dict[str, Any]:
        """``token_embeddings`` [n, t, h] and ``sentence_embedding`` float32 [n, h], not yet of length 1."""
        hidden = self.network(
            input_ids=features["input_ids"], attention_mask=features["attention_mask"]
        ).last_hidden_state
        vectors = pool(hidden.float(), features["attention_mask"], self._pooling)
        return {"token_embeddings": hidden, "sentence_embedding": vectors}


def pool(hidden: Any, mask: Any, pooling: Pooling) -> Any:
    """One state for each row, torch tensors [n, t, h] and [n, t] -> [n, h]: the ``mean`` of its real tokens, its
    first (``cls``) or its ``last`` one, whichever side is padded."""
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    if pooling == "last":
        return last_token(hidden, mask)
    return last_token(hidden.flip(1), mask.flip(1))


def _has_remote_code(folder: Path) -> bool:
    config = read_config(folder)
    return "auto_map" in config or config.get("model_type") in STOCK_TYPES


def _stock_config(folder: Path) -> Any:
    """The configuration, of the stock class where the type is a name of remote code."""
    hf = transformers()
    kind = read_config(folder).get("model_type")
    if kind in STOCK_TYPES:
        return hf.CONFIG_MAPPING[STOCK_TYPES[kind]].from_pretrained(str(folder), local_files_only=True)
    return hf.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def is_decoder(config: Mapping[str, Any]) -> bool:
    """Whether the values of a ``config.json`` are of a decoder, whose attention has a direction to choose: decoders of
    today group their heads, encoders do not."""
    return "num_key_value_heads" in config


def append_end_token(tokenizer: Any) -> bool:
    """Make the tokenizer put its end token behind every text, inside the maximum length; False if it does so already.

    Raises:
        ValueError: it adds other special tokens instead.
    """
    end = tokenizer.eos_token
    ids = tokenizer("a")["input_ids"]
    if ids[-1] == tokenizer.eos_token_id:
        return False
    if ids != tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise ValueError(
            "its tokenizer adds special tokens, but not the end token that the registry asks for"
        )
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", pair=None, special_tokens=[(end, tokenizer.eos_token_id)]
    )
    return True
