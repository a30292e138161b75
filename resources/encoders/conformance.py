"""Whether a loaded model behaves as its registry entry says, checked on a few inputs.

Each check is there because its failure was seen in published code: vectors that change with the batch (wrong
padding or pooling), decoders that attend in both directions alone but only backwards in padded batches, texts
without the end token that is pooled, SigLIP without its fixed padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from resources.encoders.items import Input, Item, ItemEncoder, Observable, Observation
from resources.models.entry import ModelEntry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHORT = "red"
TEXTS = (
    SHORT,
    "dark blue sea",
    "A person walks through a gate and a dog runs over the hill, while the sun sets behind an old stone bridge.",
)
COMMON = "dark red"
ENDINGS = (" sea", " old stone bridge")
"""Short: they must differ within the few tokens that some models read."""

MAX_COSINE_DISTANCE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}
SAME_STATE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 2e-2}
"""Relative difference of hidden states up to which two runs saw the same tokens."""

NORM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Check:
    """The outcome of one check. ``passed`` is None where the check does not apply; ``detail`` has the figures."""

    name: str
    passed: bool | None
    detail: str


def truth_checks(entry: ModelEntry, encoder: ItemEncoder) -> list[Check]:
    """All checks of one model; it is loaded, or its server asked, for about a dozen short inputs."""
    from resources.encoders.http import HttpEncoder

    inputs = _sample(encoder)
    precision = "bf16" if isinstance(encoder, HttpEncoder) else entry.dtype
    limit = MAX_COSINE_DISTANCE[precision]
    together = encoder.embed(inputs, "passage")
    alone = _one_by_one(encoder, inputs)
    checks = [
        _unit_norm(together),
        _dimensions(entry, together.shape[1]),
        _same("batch equals single", together, alone, limit),
        _padding_invariant(encoder, alone, limit),
    ]
    if _can_observe(encoder):
        checks += _inside(entry, encoder, SAME_STATE[precision])
    else:
        checks.append(Check("inside", None, "padding, pooling and attention cannot be seen through HTTP"))
    replaced: dict[str, str] = getattr(encoder, "replaced", {})
    return [_agrees(entry, check, replaced) for check in checks]


def _agrees(entry: ModelEntry, check: Check, replaced: dict[str, str]) -> Check:
    """The check, failed where the registry replaces what the model's own modules say: one of the two is wrong."""
    if check.name not in replaced:
        return check
    registered = getattr(entry, check.name)
    return Check(
        check.name, False, f"the model's own modules have {replaced[check.name]}; registered {registered}"
    )


def _sample(encoder: ItemEncoder) -> list[Input]:
    from PIL import Image

    inputs: list[Input] = list(TEXTS)
    small, large = Image.new("RGB", (64, 48), (200, 30, 30)), Image.new("RGB", (160, 96), (20, 60, 200))
    if "image" in encoder.modalities:
        inputs += [Item(images=(small,)), Item(images=(large,))]
    if "text_image" in encoder.modalities:
        inputs += [Item(text="dark blue sea", images=(large,)), Item(text="both", images=(small, large))]
    return inputs


def _one_by_one(encoder: ItemEncoder, inputs: Sequence[Input]) -> Any:
    import numpy as np

    return np.vstack([encoder.embed([item], "passage") for item in inputs])


def _unit_norm(vectors: NDArray[np.float32]) -> Check:
    import numpy as np

    worst = float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max())
    return Check("unit norm", worst < NORM_TOLERANCE, f"largest deviation {worst:.1e}")


def _dimensions(entry: ModelEntry, found: int) -> Check:
    if entry.dimensions is None:
        return Check("dimensions", None, f"{found}; none registered")
    return Check("dimensions", found == entry.dimensions, f"{found}; registered {entry.dimensions}")


def _same(name: str, first: NDArray[np.float32], second: NDArray[np.float32], limit: float) -> Check:
    worst = float((1 - (first * second).sum(axis=1)).max())
    return Check(name, worst < limit, f"largest cosine distance {worst:.1e}; limit {limit:.0e}")


def _padding_invariant(encoder: ItemEncoder, alone: NDArray[np.float32], limit: float) -> Check:
    """The vector of a short text must not change when it is padded to a long one."""
    padded = encoder.embed([" ".join(TEXTS), SHORT], "passage")
    return _same("padding invariant", padded[1:], alone[:1], limit)


def _can_observe(encoder: Any) -> bool:
    return hasattr(encoder, "observe")


def _inside(entry: ModelEntry, encoder: Any, tolerance: float) -> Iterator[Check]:
    model: Observable = encoder
    seen = observed(model)
    yield _padding_side(entry, seen)
    yield _attention(entry, model, seen, tolerance)
    yield _pooling(entry, seen, tolerance)
    if entry.append_eos:
        yield _end_token(seen)
    if entry.pad_to_max:
        length = model.observe([SHORT], "passage").tokens.shape[1]
        yield Check(
            "padded to maximum", length == entry.max_tokens, f"{length} tokens; registered {entry.max_tokens}"
        )


def _padding_side(entry: ModelEntry, seen: Observation) -> Check:
    name = "padding side"
    if seen.mask.all():
        return Check(name, None, "nothing is masked: the padding is part of the text for this model")
    found = observed_padding(seen)
    if entry.padding_side is None:
        return Check(name, None, f"{found}; none registered")
    return Check(name, found == entry.padding_side, f"{found}; registered {entry.padding_side}")


def observed_padding(seen: Observation) -> Literal["left", "right"]:
    """The side that the first text of a batch is padded on; it must be shorter than another one."""
    return "right" if seen.mask[0, 0] else "left"


def _attention(entry: ModelEntry, model: Observable, seen: Observation, tolerance: float) -> Check:
    """Do the states of the common beginning of two texts know how the texts end? In a padded batch, and alone."""
    name = "attention"
    alone, padded = attention_direction(model, seen, tolerance)
    if padded != alone:
        return Check(name, False, f"{alone} for a text alone, {padded} in a padded batch")
    if entry.attention is None:
        return Check(name, None, f"{padded}; none registered")
    return Check(name, padded == entry.attention, f"{padded}; registered {entry.attention}")


def observed(model: Observable) -> Observation:
    """A padded batch whose last two texts have a common beginning."""
    return model.observe([*TEXTS, COMMON + ENDINGS[0], COMMON + ENDINGS[1]], "passage")


def attention_direction(model: Observable, seen: Observation, tolerance: float) -> tuple[str, str]:
    """``causal`` or ``bidirectional``, for a text alone and in the padded batch ``seen`` (of :func:`observed`)."""
    single = [model.observe([COMMON + ending], "passage") for ending in ENDINGS]
    padded = _direction(_real(seen, len(TEXTS)), _real(seen, len(TEXTS) + 1), tolerance)
    alone = _direction(_real(single[0], 0), _real(single[1], 0), tolerance)
    return alone, padded


def _real(seen: Observation, row: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Token ids and states of a row without its padding."""
    kept = seen.mask[row] == 1
    return seen.tokens[row][kept], seen.hidden[row][kept]


def _direction(
    first: tuple[NDArray[np.int64], NDArray[np.float32]],
    second: tuple[NDArray[np.int64], NDArray[np.float32]],
    tolerance: float,
) -> str:
    import numpy as np

    shortest = min(len(first[0]), len(second[0]))
    common = int(np.argmax(first[0][:shortest] != second[0][:shortest]))
    states, others = first[1][:common], second[1][:common]
    change = float(np.abs(states - others).max() / max(float(np.abs(states).max()), 1e-9))
    return "causal" if change < tolerance else "bidirectional"


def _pooling(entry: ModelEntry, seen: Observation, tolerance: float) -> Check:
    import numpy as np

    name = "pooling"
    if entry.pooling not in ("mean", "cls", "last"):
        return Check(name, None, f"{entry.pooling or 'none registered'}: cannot be seen in the last layer")
    rows = np.stack([_pooled(_real(seen, row)[1], entry.pooling) for row in range(len(seen.tokens))])
    if rows.shape[1] != seen.vectors.shape[1]:
        return Check(name, None, "the model projects after pooling")
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    worst = float(np.abs(rows - seen.vectors).max())
    return Check(
        name, worst < tolerance, f"vectors differ from {entry.pooling} pooling by at most {worst:.1e}"
    )


def _pooled(states: NDArray[np.float32], pooling: str) -> Any:
    if pooling == "mean":
        return states.mean(axis=0)
    return states[0 if pooling == "cls" else -1]


def _end_token(seen: Observation) -> Check:
    last = {int(_real(seen, row)[0][-1]) for row in range(len(seen.tokens))}
    return Check("end token", len(last) == 1, f"texts end in {len(last)} different tokens")
