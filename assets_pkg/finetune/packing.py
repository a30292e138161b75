"""Training without padding on a CPU: the texts of a batch go through the transformer in one row, one after another, and
each attends to its own tokens only.

On a GPU sentence-transformers does the same with FlashAttention's kernels for sequences of different lengths
(https://sbert.net/docs/sentence_transformer/usage/efficiency.html); a CPU has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKED = "packed"
"""The name of the attention, in transformers' registry."""

FAMILIES = frozenset({"bert", "camembert", "electra", "roberta", "xlm-roberta"})
"""Whose attention is over all tokens of a text, in both directions, and nothing else."""


@dataclass(frozen=True)
class Packing:
    """Which tokens of padded texts were packed: ``mask``, bool [n, longest], and the ``lengths`` of the n texts."""

    mask: Tensor
    lengths: list[int]


def pack_texts(model: SentenceTransformer) -> None:
    """From now on ``model`` computes nothing for padding, with the same vectors; models of other families than
    `FAMILIES` stay as they are.

    The features that the model gets, and those that its modules after the transformer get, are padded as before.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    transformer: Any = model[0]
    network: Any = getattr(transformer, "model", None)
    if not _can_be_packed(network):
        return
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _no_mask)
    network.set_attn_implementation(PACKED)
    if transformer.model_forward_params is not None:
        transformer.model_forward_params |= {PACKED, "position_ids"}
    first = _first_position(network)
    transformer.register_forward_pre_hook(lambda _, inputs: (_pack(inputs[0], first), *inputs[1:]))
    transformer.register_forward_hook(_unpack)


def _can_be_packed(network: Any) -> bool:
    """Whether it is transformers' own network of one of the `FAMILIES`, and only its last layer is wanted."""
    config: Any = getattr(network, "config", None)
    return (
        getattr(config, "model_type", None) in FAMILIES
        and type(network).__module__.startswith("transformers.models.")
        and not config.is_decoder
        and not getattr(config, "output_hidden_states", False)
    )


def _first_position(network: Any) -> int:
    """The number of a text's first position: RoBERTa's begin after the id of the padding."""
    offset = getattr(network.embeddings, "padding_idx", None)
    return 0 if offset is None else int(offset) + 1


def _pack(features: dict[str, Any], first: int) -> dict[str, Any]:
    """The features of one row with the tokens of all texts: each [n, longest] of them becomes [1, tokens]."""
    mask = features["attention_mask"].bool()
    packed = {
        name: value[mask][None] if name in ("input_ids", "token_type_ids") else value
        for name, value in features.items()
        if name != "attention_mask"
    }
    positions = (mask.cumsum(1) - 1 + first)[mask]
    return packed | {"position_ids": positions[None], PACKED: Packing(mask, mask.sum(1).tolist())}


def _unpack(_: nn.Module, inputs: tuple[Any, ...], output: dict[str, Any]) -> dict[str, Any]:
    """The transformer's output for the padded texts: ``token_embeddings`` [n, longest, width], 0 at padding."""
    mask = inputs[0][PACKED].mask
    tokens = output["token_embeddings"][0]
    padded = tokens.new_zeros(*mask.shape, tokens.shape[1]).index_put((mask,), tokens)
    kept = {name: value for name, value in output.items() if name not in (PACKED, "position_ids")}
    return kept | {"token_embeddings": padded, "attention_mask": mask.long()}


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    packed: Packing,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of each text over its own tokens, in the form of transformers' attention functions
    (https://huggingface.co/docs/transformers/attention_interface).

    Args:
        query, key, value: [1, heads, tokens, width], of the texts one after another.

    Returns:
        [1, tokens, heads, width], and no weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    texts = zip(*(each[0].split(packed.lengths, dim=1) for each in (query, key, value)), strict=True)
    attended: list[Tensor] = []
    for q, k, v in texts:
        weights = torch.softmax(q @ k.transpose(1, 2) * scale, dim=-1)
        attended.append((nn.functional.dropout(weights, dropout, module.training) @ v).transpose(0, 1))
    return torch.cat(attended)[None], None


def _no_mask(*_: Any, **__: Any) -> None:
    """Of the masks that transformers makes for an attention: none, since a text sees no other."""
