"""Training almost without padding on a CPU: the texts of a batch go through the transformer in one row, one after
another, and each attends to its own tokens only. Texts of about the same length do so together, padded to the longest
of them: attention text by text is many small products, which take as long as all linear layers.

On a GPU sentence-transformers does the same with FlashAttention's kernels for sequences of different lengths
(https://sbert.net/docs/sentence_transformer/usage/efficiency.html); a CPU has none.
"""

from __future__ import annotations

from collections.abc import Sequence
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


MOST_PADDING = 0.05
"""Of the tokens of texts that are padded to the same length."""


@dataclass(frozen=True)
class Group:
    """Texts padded to the same length: ``rows`` of the batch, the longest first."""

    rows: list[int]
    length: int

    @property
    def size(self) -> int:
        """Tokens, with padding."""
        return len(self.rows) * self.length


@dataclass(frozen=True)
class Packing:
    """How n padded texts became one row of p tokens, group by group.

    ``mask``: bool [n, longest], of the padded texts. ``places``: int64 [p], of each packed token in them, flattened.
    ``masks``: of each group's attention, added to its scores: float32 [texts, 1, 1, length], -inf at padding
    and 0 at tokens; None: it has no padding.
    """

    mask: Tensor
    groups: list[Group]
    places: Tensor
    masks: list[Tensor | None]

    @classmethod
    def of(cls, mask: Tensor) -> Packing:
        """Args: mask: bool [n, longest], of texts that are padded on the right."""
        groups = groups_of(mask.sum(1).tolist())
        columns = torch.arange(mask.shape[1])
        places = [
            torch.tensor(each.rows)[:, None] * mask.shape[1] + columns[: each.length] for each in groups
        ]
        seen = [mask[each.rows, None, None, : each.length] for each in groups]
        masks = [None if each.all() else torch.where(each, 0.0, -torch.inf) for each in seen]
        return cls(mask, groups, torch.cat([each.flatten() for each in places]), masks)


def groups_of(lengths: Sequence[int]) -> list[Group]:
    """Texts of similar length together: at most `MOST_PADDING` of a group's tokens are padding."""
    groups: list[Group] = []
    tokens = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        tokens += lengths[row]
        if groups and groups[-1].size + groups[-1].length <= tokens / (1 - MOST_PADDING):
            groups[-1].rows.append(row)
        else:
            groups.append(Group([row], lengths[row]))
            tokens = lengths[row]
    return groups


def pack_texts(model: SentenceTransformer) -> None:
    """From now on ``model`` computes almost nothing for padding, with the same vectors; models of other families than
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
    """The features of one row with the tokens of all texts: each [n, longest] of them becomes [1, p]."""
    packing = Packing.of(features["attention_mask"].bool())
    packed = {
        name: value.flatten()[packing.places][None] if name in ("input_ids", "token_type_ids") else value
        for name, value in features.items()
        if name != "attention_mask"
    }
    positions = (packing.places % packing.mask.shape[1] + first)[None]
    return packed | {"position_ids": positions, PACKED: packing}


def _unpack(_: nn.Module, inputs: tuple[Any, ...], output: dict[str, Any]) -> dict[str, Any]:
    """The transformer's output for the padded texts: ``token_embeddings`` [n, longest, width], 0 at padding."""
    packing: Packing = inputs[0][PACKED]
    mask, tokens = packing.mask, output["token_embeddings"][0]
    real = mask.flatten()[packing.places]
    padded = tokens.new_zeros(mask.numel(), tokens.shape[1]).index_copy(0, packing.places[real], tokens[real])
    kept = {name: value for name, value in output.items() if name not in (PACKED, "position_ids")}
    return kept | {"token_embeddings": padded.view(*mask.shape, -1), "attention_mask": mask.long()}


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
    scaled = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    sizes = [each.size for each in packed.groups]
    parts = zip(*(each[0].split(sizes, dim=1) for each in (scaled, key, value)), strict=True)
    attended: list[Tensor] = []
    for group, mask, part in zip(packed.groups, packed.masks, parts, strict=True):
        # [heads, texts x length, width] to [texts, heads, length, width]
        q, k, v = (each.unflatten(1, (-1, group.length)).transpose(0, 1) for each in part)
        scores = q @ k.transpose(2, 3)
        weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        texts = nn.functional.dropout(weights, dropout, module.training) @ v
        attended.append(texts.transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)[None], None


def _no_mask(*_: Any, **__: Any) -> None:
    """Of the masks that transformers makes for an attention: none, since a text sees no other."""
