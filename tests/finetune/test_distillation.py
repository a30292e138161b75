"""The distillation set and its loss: what teachers rank, what is cached, and who is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune import distillation
from assets_pkg.finetune.batches import NO_PASSAGE, PlannedBatches, Row, batch_label
from assets_pkg.finetune.data import Example
from assets_pkg.finetune.distillation import make_distillation, read_distillation, topical_groups
from assets_pkg.finetune.errors import TrainingDataError
from assets_pkg.finetune.loss import distillation_loss, info_nce, total_loss
from assets_pkg.finetune.plan import plan_training
from assets_pkg.finetune.unlabelled import unlabelled_questions
from assets_pkg.retrieval import teachers
from assets_pkg.retrieval.errors import TeacherError
from assets_pkg.retrieval.teachers import CrossEncoderTeacher, open_teacher
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from storage.artifacts import TrainingSet
from storage.embedding_cache import EmbeddingCache
from storage.progress import Progress, no_progress
from tests.finetune.conftest import CPU, WORDS, TrainingInputs, content_of, make_tokenizer


@pytest.fixture
def encoder(inputs: TrainingInputs) -> SentenceTransformerEncoder:
    return SentenceTransformerEncoder(
        inputs.base.model, inputs.base.version, CPU, inputs.model.encoder_config()
    )


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "cache")


@pytest.fixture
def training(inputs: TrainingInputs, tmp_path: Path) -> TrainingSet:
    """The set behind ``mined``: the validation passages and two more are held out."""
    folder = tmp_path / "training_set"
    folder.mkdir()
    ids = pq.read_table(inputs.mined.path / "corpus" / "train.parquet").column("id").to_pylist()
    (folder / "splits.json").write_text(json.dumps({"held_out_passages": ids[-10:]}))
    return TrainingSet(folder, "training_set", "training0")


Teach = Callable[..., list[str]]


@pytest.fixture
def teach(
    inputs: TrainingInputs, training: TrainingSet, encoder: SentenceTransformerEncoder, cache: EmbeddingCache
) -> Teach:
    """Write the distillation set into a folder; returns the notes."""

    def go(folder: Path, settings: FinetuneSettings, progress: Progress = no_progress) -> list[str]:
        folder.mkdir(exist_ok=True)
        notes: list[str] = []
        make_distillation(
            inputs.mined,
            training,
            inputs.base,
            settings,
            encoder,
            CPU,
            cache,
            folder,
            progress,
            notes.append,
        )
        return notes

    return go


# ---- the loss ----------------------------------------------------------------------------------------------------


def test_the_loss_is_the_divergence_from_the_teachers_distribution() -> None:
    """Worked by hand: one question, three passages; its source (the third) is left out."""
    rows = [Row(NO_PASSAGE, (), (9,), (5, 7), (1.0, 0.2))]
    label = batch_label(rows, [7, 5, 9], teaches=True)
    query = torch.tensor([[1.0, 0.0]])
    passages = torch.tensor([[0.6, 0.8], [0.8, 0.6], [1.0, 0.0]])
    teacher = [math.exp(0.2 / 0.1), math.exp(1.0 / 0.1)]
    model = [math.exp(0.6 / 0.5), math.exp(0.8 / 0.5)]
    t, s = ([each / sum(values) for each in values] for values in (teacher, model))
    expected = sum(a * math.log(a / b) for a, b in zip(t, s, strict=True))
    assert distillation_loss(query, passages, label, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_a_passage_that_the_teacher_does_not_list_has_its_lowest_score() -> None:
    listed = batch_label([Row(NO_PASSAGE, (), (), (1, 2), (1.0, 0.0))], [1, 2], teaches=True)
    unlisted = batch_label([Row(NO_PASSAGE, (), (), (1,), (1.0,))], [1, 2], teaches=True)
    query, passages = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    assert distillation_loss(query, passages, listed, 0.1) == distillation_loss(
        query, passages, unlisted, 0.1
    )


def test_pairs_are_contrasted_as_without_a_teacher() -> None:
    torch.manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    passages = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    pairs = [Row(3, (4,), (3,)), Row(2, (), (2, 4))]
    taught = Row(NO_PASSAGE, (), (1,), (0, 3), (1.0, 0.5))
    mixed = batch_label([pairs[0], taught, pairs[1]], [0, 4, 3, 1, 2], teaches=True)
    own = info_nce(queries[[0, 2]], passages[[1, 2, 4]], batch_label(pairs, [4, 3, 2]), 0.05, True)
    total = total_loss(queries, passages, mixed, 0.05, True, 0.5)
    learned = distillation_loss(queries, passages, mixed, 0.05)
    assert learned > 0
    assert total.item() == pytest.approx((own + 0.5 * learned).item(), rel=1e-6)


# ---- batches -----------------------------------------------------------------------------------------------------


def test_every_batch_has_a_group_and_ranks_share_it(inputs: TrainingInputs) -> None:
    plan = plan_training(20, inputs.settings(global_batch_size=8, num_epochs=2))
    groups = [[0, 1, 2], [3, 4, 5]]
    whole = list(PlannedBatches(plan, 0, groups=groups))
    taught = [tuple(row - 20 for row in batch if row >= 20) for batch in whole]
    assert len(whole) == plan.steps == 6
    assert all(set(taught[step : step + 2]) == {(0, 1, 2), (3, 4, 5)} for step in (0, 2, 4))
    shares = [list(PlannedBatches(plan, 0, rank, 2, groups)) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]
    assert [[row for row in batch if row < 20] for batch in whole] == list(PlannedBatches(plan, 0))


def test_groups_are_of_questions_with_the_same_candidates() -> None:
    lists = [
        [f"{topic}{n}" for n in range(question % 3, question % 3 + 4)]
        for topic in "ab"
        for question in range(4)
    ]
    groups = topical_groups(lists, 4, seed=3)
    assert sorted(map(sorted, groups)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert sorted(map(len, topical_groups(lists, 5, seed=3))) == [5]
    assert topical_groups(lists[:2], 8, seed=3) == [[0, 1]] or topical_groups(lists[:2], 8, seed=3) == [
        [1, 0]
    ]


# ---- questions ---------------------------------------------------------------------------------------------------


def test_telling_sentences_are_preferred_and_sources_are_known() -> None:
    common = "this is what the text is about here."
    passages = {
        f"p{n}": f"{common} The zebra{n} quagga{n} okapi{n} dingo{n} grazed alone." for n in range(200)
    }
    found = unlabelled_questions([Example("q", "What grazed?", "p3", ())], passages, 1000, seed=1)
    assert {each.source for each in found if each.text == "What grazed?"} == {"p3"}
    sentences = [each for each in found if each.text != "What grazed?"]
    assert sum(each.text.startswith("The zebra") for each in sentences) >= 199
    assert all(each.text in passages[each.source] for each in sentences)
    assert len(unlabelled_questions([], passages, 50, seed=1)) == 50


# ---- teachers ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_lexical_teacher_finds_what_shares_words_and_not_the_source(
    encoder: SentenceTransformerEncoder, cache: EmbeddingCache
) -> None:
    passages = ["badin kefel", "badin kefel ligor", "mohat nujum", "sodin tefel badin"]
    with open_teacher("lexical:0.2", passages, encoder, CPU, cache) as teacher:
        found = teacher.rank(["badin kefel", "mohat nujum"], [0, -1], 3)
    assert found.passages[0, 0] == 1
    assert 0 not in found.passages[0]
    assert found.passages[1, 0] == 2
    assert found.scores[0].tolist() == sorted(found.scores[0], reverse=True)
    assert 0 <= found.scores.min() <= found.scores.max() <= 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lexical:2", "between 0 and 1"),
        ("/nowhere/at-all", "no such folder"),
    ],
)
def test_a_teacher_that_does_not_exist_is_named(
    name: str, words: str, encoder: SentenceTransformerEncoder, cache: EmbeddingCache
) -> None:
    with pytest.raises(TeacherError, match=words), open_teacher(name, ["badin"], encoder, CPU, cache):
        pass


@pytest.fixture(scope="session")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random cross-encoder: BERT with one output, as sentence-transformers saves it."""
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification

    plain, folder = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("cross-encoder")
    make_tokenizer(plain, limit=64)
    torch.manual_seed(0)
    config: Any = BertConfig(
        vocab_size=len(WORDS) + 8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(plain)
    CrossEncoder(str(plain), device="cpu").save_pretrained(str(folder))
    return folder


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_killed_cross_encoder_repeats_no_list_that_it_scored(
    cross_encoder: Path,
    encoder: SentenceTransformerEncoder,
    cache: EmbeddingCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sentence_transformers import CrossEncoder

    monkeypatch.setattr(teachers, "LISTS_AT_ONCE", 2)
    passages = [" ".join(WORDS[n : n + 5]) for n in range(12)]
    questions = [" ".join(WORDS[n : n + 2]) for n in range(7)]

    def killed(done: int, total: int, unit: str, **figures: float) -> None:
        if done == 4:
            raise Killed

    with open_teacher(str(cross_encoder), passages, encoder, CPU, cache) as teacher:
        assert isinstance(teacher, CrossEncoderTeacher)
        with pytest.raises(Killed):
            teacher.rank(questions, [-1] * 7, 4, killed)
        assert teacher.scored == 4
    with open_teacher(str(cross_encoder), passages, encoder, CPU, cache) as teacher:
        assert isinstance(teacher, CrossEncoderTeacher)
        found = teacher.rank(questions, [-1] * 7, 4)
        assert teacher.scored == 3
        teacher.rank(questions, [-1] * 7, 4)
        assert teacher.scored == 3
    model: Any = CrossEncoder(str(cross_encoder), device="cpu")
    for question, rows, scores in zip(questions, found.passages, found.scores, strict=True):
        listed = [row for row in rows.tolist() if row >= 0]
        raw = model.predict([(question, passages[row]) for row in listed])
        assert (np.diff(raw) <= 1e-6).all()
        scaled = (raw - raw.min()) / (raw.max() - raw.min())
        assert scores[: len(listed)] == pytest.approx(scaled, abs=1e-5)


# ---- the set -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_set_is_of_training_passages_and_made_once(
    teach: Teach, inputs: TrainingInputs, training: TrainingSet, tmp_path: Path
) -> None:
    settings = inputs.settings(teacher="lexical", teacher_questions=20, teacher_candidates=6)
    notes = teach(tmp_path / "run", settings)
    assert notes == ["lexical teaches 20 questions with up to 6 passages each"]
    made = read_distillation(tmp_path / "run", inputs.mined)
    assert made is not None
    named = {name for listed in made.candidates for name in listed} | set(made.sources)
    assert not named & training.held_out_passages()
    assert all(source not in listed for source, listed in zip(made.sources, made.candidates, strict=True))
    assert teach(tmp_path / "run", settings) == []
    assert teach(tmp_path / "run", settings.model_copy(update={"seed": 7})) != []


def test_a_teacher_with_random_scores_is_refused_by_the_validation_questions(
    teach: Teach, inputs: TrainingInputs, tmp_path: Path, cross_encoder: Path
) -> None:
    """The cross-encoder was never trained."""
    notes = teach(tmp_path / "run", inputs.settings(teacher=str(cross_encoder)))
    assert len(notes) == 1
    assert "is not used: it ranks the validation questions worse than the base" in notes[0]
    assert read_distillation(tmp_path / "run", inputs.mined) is None


def test_training_without_the_set_is_refused(inputs: TrainingInputs, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match=distillation.FILE):
        inputs.finetune(tmp_path / "run", teacher="lexical")


@pytest.mark.slow
def test_the_model_learns_from_its_teacher_and_resumes_exactly(
    teach: Teach, inputs: TrainingInputs, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"teacher": "lexical", "local_batch_size": 4, "num_epochs": 1}
    settings = inputs.settings(**changes)
    for name in ("whole", "killed"):
        teach(tmp_path / name, settings)

    def killed(done: int, total: int, unit: str, **figures: float) -> None:
        if unit == "steps" and done == 3:
            raise Killed

    whole = inputs.finetune(tmp_path / "whole", **changes)
    with pytest.raises(Killed):
        inputs.finetune(tmp_path / "killed", killed, **changes)
    resumed = inputs.finetune(tmp_path / "killed", **changes)
    assert content_of(resumed) == content_of(whole)
    recorded = json.loads((whole / "summary.json").read_text())
    assert recorded["teacher"] == "lexical"
    assert recorded["questions_taught"] > 40
    del changes["teacher"]
    alone = inputs.finetune(tmp_path / "alone", **changes)
    assert content_of(alone) != content_of(whole)
    assert "teacher" not in json.loads((alone / "summary.json").read_text())
