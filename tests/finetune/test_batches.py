from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune.batches import PlannedBatches, collator_for, tokenize
from assets_pkg.finetune.data import read_train_data
from assets_pkg.finetune.model_io import load_model
from assets_pkg.finetune.plan import plan_training
from assets_pkg.finetune.validation import embed
from storage.artifacts import Checkpoint, MinedTrainSet


def test_tokens_are_those_of_sentence_transformers(base: Checkpoint) -> None:
    model = load_model(base.model, "cpu")
    texts = ["badin kefel", "ligor mohat nujum radin " * 9]
    features = model.preprocess(texts, prompt="query: ")
    expected = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True)
    ]
    assert tokenize(model, texts, "query: ", 24) == expected
    assert max(len(ids) for ids in tokenize(model, texts, "query: ", 10)) == 10


def test_vectors_are_those_of_encode(base: Checkpoint) -> None:
    model = load_model(base.model, "cpu")
    texts = [f"badin {'kefel ' * n} sogor" for n in (1, 12, 5, 0)]
    got = embed(model, tokenize(model, texts, "passage: ", 24), bf16=False)
    torch.testing.assert_close(
        torch.from_numpy(got), model.encode_document(texts, convert_to_tensor=True).cpu()
    )


def test_every_epoch_has_every_row_once_in_even_batches(settings: Callable[..., FinetuneSettings]) -> None:
    plan = plan_training(50, settings(num_epochs=3, global_batch_size=12))
    batches = list(PlannedBatches(plan, seed=1))
    assert len(batches) == len(PlannedBatches(plan, seed=1)) == plan.steps == 15
    epochs = [list(chain(*batches[start : start + 5])) for start in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert {len(batch) for batch in batches} == {10}
    assert batches == list(PlannedBatches(plan, seed=1))
    assert batches != list(PlannedBatches(plan, seed=2))


def test_a_batch_holds_each_passage_once_with_its_label(
    base: Checkpoint, mined: MinedTrainSet, model_settings: ModelSettings
) -> None:
    data = read_train_data(mined.unrolled, 2)
    collator = collator_for(load_model(base.model, "cpu"), data, model_settings)
    batch = collator([{"row": row} for row in range(20)])
    names = list(data.passages)
    passages = [names[number] for number in batch["label"]["passages"].tolist()]
    examples = [data.examples[row] for row in batch["rows"].tolist()]
    assert len(passages) == len(set(passages)) == batch["passage_input_ids"].shape[0]
    assert set(passages) == {n for e in examples for n in (e.positive, *e.negatives)}
    assert [passages[column] for column in batch["label"]["target"].tolist()] == [
        e.positive for e in examples
    ]
    for example, known in zip(examples, batch["label"]["known"].tolist(), strict=True):
        assert {names[number] for number in known if number >= 0} == data.known_positives[example.question]
    lengths = batch["passage_attention_mask"].sum(dim=1).tolist()
    assert lengths == sorted(lengths, reverse=True)
