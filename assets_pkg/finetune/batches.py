"""From training rows to tensors: texts are tokenised once, and each passage of a batch is embedded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from assets_pkg.config.base import ModelSettings
from assets_pkg.finetune.data import TrainData
from assets_pkg.finetune.plan import TrainingPlan

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NO_PASSAGE = -1
"""Pads lists of passage numbers to one length."""


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
    """One training row as passage numbers: indices into ``TrainData.passages``. ``known``: all positives of its
    question."""

    positive: int
    negatives: tuple[int, ...]
    known: tuple[int, ...]


@dataclass
class PairCollator:
    """Collates rows into one batch.

    Each distinct passage is in a batch once, however many questions share it. Questions and passages are ordered by
    length, longest first, so that mini-batches cut from them hold little padding. The int64 tensors of ``label``
    relate them: ``target`` [B], the column of each question's positive; ``passages`` [M], ``known`` [B, P] and
    ``negatives`` [B, N], passage numbers, padded with -1.
    """

    questions: list[list[int]]
    passages: list[list[int]]
    rows: list[Row]
    padding_id: int
    valid_label_columns: list[str] = field(default_factory=lambda: ["label"])

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        numbers = sorted((f["row"] for f in features), key=lambda n: (-len(self.questions[n]), n))
        rows = [self.rows[number] for number in numbers]
        wanted = {name for row in rows for name in (row.positive, *row.negatives)}
        passages = sorted(wanted, key=lambda name: (-len(self.passages[name]), name))
        query = pad([self.questions[number] for number in numbers], self.padding_id)
        passage = pad([self.passages[name] for name in passages], self.padding_id)
        return {
            **{f"query_{key}": value for key, value in query.items()},
            **{f"passage_{key}": value for key, value in passage.items()},
            "rows": torch.tensor(numbers),
            "label": batch_label(rows, passages),
        }


def batch_label(rows: Sequence[Row], passages: Sequence[int]) -> dict[str, Tensor]:
    """The label of :class:`PairCollator` for a batch of ``rows`` over the distinct ``passages``."""
    column = {name: index for index, name in enumerate(passages)}
    return {
        "target": torch.tensor([column[row.positive] for row in rows]),
        "passages": torch.tensor(passages),
        "known": _padded([row.known for row in rows]),
        "negatives": _padded([row.negatives for row in rows]),
    }


def _padded(lists: Sequence[Sequence[int]]) -> Tensor:
    width = max(1, max(len(numbers) for numbers in lists))
    return torch.tensor([[*numbers, *[NO_PASSAGE] * (width - len(numbers))] for numbers in lists])


def collator_for(model: SentenceTransformer, data: TrainData, settings: ModelSettings) -> PairCollator:
    """Tokenise the whole training set."""
    questions = [example.question for example in data.examples]
    return PairCollator(
        questions=tokenize(model, questions, settings.query_prefix, settings.query_max_length),
        passages=tokenize(
            model, list(data.passages.values()), settings.passage_prefix, settings.passage_max_length
        ),
        rows=rows_of(data),
        padding_id=padding_id(model),
    )


def rows_of(data: TrainData) -> list[Row]:
    """The training rows as passage numbers."""
    number = {name: index for index, name in enumerate(data.passages)}
    return [
        Row(
            positive=number[example.positive],
            negatives=tuple(number[name] for name in example.negatives),
            known=tuple(sorted(number[n] for n in data.known_positives[example.question] if n in number)),
        )
        for example in data.examples
    ]


def padding_id(model: SentenceTransformer) -> int:
    """The tokenizer's padding id (any id will do where it has none: the attention mask hides it)."""
    return int(getattr(model.tokenizer, "pad_token_id", None) or 0)


class PlannedBatches(BatchSampler):
    """The row numbers of every batch of every epoch, in order.

    An epoch is a random permutation of all rows, split into batches whose sizes differ by at most one, so that no
    batch has too few negatives. The order depends on seed and epoch only, so that a resumed run continues with the
    same batches. Each rank draws its own share of every batch.
    """

    def __init__(self, plan: TrainingPlan, seed: int, rank: int = 0, world_size: int = 1):
        self.plan = plan
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.batch_size = plan.batch_size
        self.drop_last = False

    def __len__(self) -> int:
        return self.plan.steps

    def __iter__(self) -> Iterator[list[int]]:
        for epoch in range(self.plan.epochs):
            order = np.random.default_rng([self.seed, epoch]).permutation(self.plan.examples)
            for batch in np.array_split(order, self.plan.steps_per_epoch):
                yield np.array_split(batch, self.world_size)[self.rank].tolist()
