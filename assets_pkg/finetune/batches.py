"""From training rows to tensors: texts are tokenised once, and each passage of a batch is embedded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from assets_pkg.config.base import ModelSettings
from assets_pkg.finetune.data import TrainData
from assets_pkg.finetune.distillation import Distillation
from assets_pkg.finetune.plan import TrainingPlan

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

NO_PASSAGE = -1
"""Pads lists of passage numbers to one length."""

BROUGHT = 2
"""Passages that a question with a teacher brings into its batch; it is also taught on those that others bring."""


def tokenize(
    model: SentenceTransformer, texts: Sequence[str], prefix: str, max_length: int
) -> list[list[int]]:
    """Token ids of ``prefix + text``, special tokens included, cut at ``max_length`` (and at the model's own
    limit): what ``SentenceTransformer.encode(texts, prompt=prefix)`` feeds to the model."""
    limit = min(max_length, model.max_seq_length or max_length)
    tokenizer: Any = model.tokenizer
    return tokenizer([prefix + text for text in texts], truncation=True, max_length=limit)["input_ids"]


def pad(sequences: Sequence[Sequence[int]], padding_id: int) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask``, int64 [n, longest], padded on the right."""
    width = max(len(sequence) for sequence in sequences)
    ids = np.full((len(sequences), width), padding_id, dtype=np.int64)
    mask = np.zeros((len(sequences), width), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


@dataclass(frozen=True)
class Row:
    """One row as passage numbers. ``known``: all positives of its question.

    A question of the distillation set has no ``positive`` (-1), its source as ``known``, and the passages that its
    teacher ``listed``, best first, with their ``scores``.
    """

    positive: int
    negatives: tuple[int, ...]
    known: tuple[int, ...]
    listed: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()

    @property
    def brought(self) -> tuple[int, ...]:
        """The passages that are in a batch because of this row."""
        if self.positive == NO_PASSAGE:
            return self.listed[:BROUGHT]
        return (self.positive, *self.negatives)


@dataclass
class PairCollator:
    """Collates rows into one batch.

    Each distinct passage is in a batch once, however many questions share it. Questions and passages are ordered by
    length, longest first, so that mini-batches cut from them hold little padding. The int64 tensors of ``label``
    relate them: ``target`` [B], the column of each question's positive (-1: none); ``passages`` [M], ``known`` [B, P]
    and ``negatives`` [B, N], passage numbers, padded with -1. Questions with a teacher add ``listed`` [B, K], passage
    numbers, and the float32 ``scores`` [B, K], both padded with -1.
    """

    questions: list[list[int]]
    passages: list[list[int]]
    rows: list[Row]
    padding_id: int
    valid_label_columns: list[str] = field(default_factory=lambda: ["label"])

    @cached_property
    def teaches(self) -> bool:
        """Whether there are questions with a teacher."""
        return any(row.listed for row in self.rows)

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        numbers = sorted((f["row"] for f in features), key=lambda n: (-len(self.questions[n]), n))
        rows = [self.rows[number] for number in numbers]
        wanted = {name for row in rows for name in row.brought}
        passages = sorted(wanted, key=lambda name: (-len(self.passages[name]), name))
        query = pad([self.questions[number] for number in numbers], self.padding_id)
        passage = pad([self.passages[name] for name in passages], self.padding_id)
        return {
            **{f"query_{key}": value for key, value in query.items()},
            **{f"passage_{key}": value for key, value in passage.items()},
            "rows": torch.tensor(numbers),
            "label": batch_label(rows, passages, self.teaches),
        }


def batch_label(rows: Sequence[Row], passages: Sequence[int], teaches: bool = False) -> dict[str, Tensor]:
    """The label of :class:`PairCollator` for a batch of ``rows`` over the distinct ``passages``; ``teaches``: with the
    lists of a teacher."""
    column = {name: index for index, name in enumerate(passages)}
    label = {
        "target": torch.tensor([column.get(row.positive, NO_PASSAGE) for row in rows]),
        "passages": torch.tensor(passages),
        "known": _padded([row.known for row in rows]),
        "negatives": _padded([row.negatives for row in rows]),
    }
    if teaches:
        label["listed"] = _padded([row.listed for row in rows])
        label["scores"] = _padded([row.scores for row in rows]).float()
    return label


def _padded(lists: Sequence[Sequence[float]]) -> Tensor:
    width = max(1, max(len(numbers) for numbers in lists))
    return torch.tensor([[*numbers, *[NO_PASSAGE] * (width - len(numbers))] for numbers in lists])


def collator_for(
    model: SentenceTransformer, data: TrainData, settings: ModelSettings, taught: Distillation | None = None
) -> PairCollator:
    """Tokenise the whole training set, and the distillation set after it."""
    questions = [*(example.question for example in data.examples), *(taught.questions if taught else ())]
    passages = numbered_passages(data, taught)
    return PairCollator(
        questions=tokenize(model, questions, settings.query_prefix, settings.query_max_length),
        passages=tokenize(
            model, list(passages.values()), settings.passage_prefix, settings.passage_max_length
        ),
        rows=rows_of(data, taught),
        padding_id=padding_id(model),
    )


def numbered_passages(data: TrainData, taught: Distillation | None) -> dict[str, str]:
    """The text of every passage by id; its place is the passage's number."""
    return data.passages | (taught.passages if taught else {})


def rows_of(data: TrainData, taught: Distillation | None = None) -> list[Row]:
    """The training rows as passage numbers, and after them the questions of the distillation set."""
    number = {name: index for index, name in enumerate(numbered_passages(data, taught))}
    rows = [
        Row(
            positive=number[example.positive],
            negatives=tuple(number[name] for name in example.negatives),
            known=tuple(sorted(number[n] for n in data.known_positives[example.question] if n in number)),
        )
        for example in data.examples
    ]
    if taught is None:
        return rows
    lists = zip(taught.sources, taught.candidates, taught.scores, strict=True)
    return rows + [
        Row(
            positive=NO_PASSAGE,
            negatives=(),
            known=(number[source],) if source in number else (),
            listed=tuple(number[name] for name in candidates),
            scores=tuple(scores),
        )
        for source, candidates, scores in lists
    ]


def padding_id(model: SentenceTransformer) -> int:
    """The tokenizer's padding id (any id will do where it has none: the attention mask hides it)."""
    return int(getattr(model.tokenizer, "pad_token_id", None) or 0)


class PlannedBatches(BatchSampler):
    """The row numbers of every batch of every epoch, in order.

    An epoch is a random permutation of all rows, split into batches whose sizes differ by at most one, so that no
    batch has too few negatives. The order depends on seed and epoch only, so that a resumed run continues with the
    same batches. Each rank draws its own share of every batch.

    Args:
        groups: of questions of the distillation set, whose rows come after those of the training set. Every batch has
            one of them too, each in its turn.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        groups: Sequence[Sequence[int]] = (),
    ):
        self.plan = plan
        self.groups = groups
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.batch_size = plan.batch_size
        self.drop_last = False

    def __len__(self) -> int:
        return self.plan.steps

    def __iter__(self) -> Iterator[list[int]]:
        taught = self._taught()
        for epoch in range(self.plan.epochs):
            order = np.random.default_rng([self.seed, epoch]).permutation(self.plan.examples)
            for batch in np.array_split(order, self.plan.steps_per_epoch):
                yield [*self._share(batch), *(self._share(next(taught)) if self.groups else ())]

    def _share(self, numbers: NDArray[np.int64]) -> list[int]:
        return np.array_split(numbers, self.world_size)[self.rank].tolist()

    def _taught(self) -> Iterator[NDArray[np.int64]]:
        """The rows of one group after another, in a new random order each time round."""
        for turn in count():
            order = np.random.default_rng([self.seed, turn, 1]).permutation(len(self.groups))
            for group in order.tolist():
                yield np.asarray(self.groups[group]) + self.plan.examples
