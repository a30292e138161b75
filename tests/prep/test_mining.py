import json

import numpy as np
import pytest

from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.mining import ceilings, mine_hard_negatives, window, with_suspects
from assets_pkg.retrieval.exact_search import TopK
from assets_pkg.retrieval.teachers import Ranking, open_teacher
from resources.machine.accelerator import find_accelerator
from storage.digests import digest_file
from storage.embedding_cache import EmbeddingCache
from storage.formats.retriever_json import (
    PassageRef,
    RetrieverExample,
    read_retriever_file,
    write_corpus,
    write_retriever_file,
)

from .conftest import TableEncoder, mining_settings, read_json, training_set_at


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def write_set(folder, examples, passages, held_out=()):
    folder.mkdir(exist_ok=True)
    write_corpus(folder / "corpus", passages.items())
    write_retriever_file(folder / "train.json", examples)
    write_retriever_file(folder / "val.json", [])
    (folder / "splits.json").write_text(json.dumps({"documents": {}, "held_out_passages": list(held_out)}))
    return training_set_at(folder)


def example(name, question, *positives):
    return RetrieverExample(name, question, tuple(PassageRef(each) for each in positives))


@pytest.fixture(scope="module")
def large():
    """1000 questions, 5000 passages, some vectors many times, some questions and texts twice, some held out."""
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(5000, 32)).astype(np.float32))
    copies = rng.choice(5000, size=1500, replace=False)
    vectors[copies] = vectors[rng.choice(5000, size=1500)]
    texts = {f"d{n}": f"text {n}" for n in range(5000)}
    for n in range(0, 300, 3):
        texts[f"d{n}"] = f"text  {n + 1}"  # the next one's text with other spacing
    held_out = [f"d{n}" for n in range(4500, 5000)]
    examples, encoded = [], dict(zip(texts.values(), vectors, strict=True))
    for n in range(1000):
        rows = rng.choice(4500, size=rng.integers(1, 4), replace=False)
        question = f"question {n % 970}"
        noise = rng.choice([-0.4, 0.4, 2.0])
        encoded[question] = unit(vectors[rows[0]] * noise + 0.1 * rng.normal(size=32)).astype(np.float32)
        examples.append(example(f"q{n}", question, *(f"d{row}" for row in rows)))
    return examples, texts, held_out, encoded


def brute_force(examples, texts, held_out, encoded, settings):
    """All pairs in float64, by the rule as it is written down."""
    ids = list(texts)
    matrix, which = np.unique(np.stack([encoded[texts[name]] for name in ids]), axis=0, return_inverse=True)
    squeezed = {name: " ".join(text.split()) for name, text in texts.items()}
    answers = {}
    for each in examples:
        known = answers.setdefault(each.question, set())
        known |= {squeezed[positive.passage_id] for positive in each.positives}
    mined = []
    for each in examples:
        distinct = matrix.astype(np.float64) @ encoded[each.question].astype(np.float64)
        scores = dict(zip(ids, distinct[which.reshape(-1)], strict=True))
        lowest = min(scores[positive.passage_id] for positive in each.positives)
        m = settings.hard_neg_margin
        top = lowest - (1 - m) * abs(lowest) if settings.hard_neg_margin_type == "perc" else lowest - m
        allowed = [
            name
            for name in ids
            if name not in held_out
            and squeezed[name] not in answers[each.question]
            and scores[name] <= top + 1e-12
        ]
        allowed.sort(key=lambda name: -scores[name])  # stable: ties stay in corpus order
        mined.append([(name, scores[name]) for name in allowed[: settings.hard_negatives_to_mine]])
    return mined


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "margin"), [("perc", 0.95), ("abs", 0.05), ("abs", 0.0)])
def test_equals_brute_force(large, tmp_path, kind, margin):
    examples, texts, held_out, encoded = large
    settings = mining_settings(hard_neg_margin_type=kind, hard_neg_margin=margin, hard_negatives_to_mine=7)
    source = write_set(tmp_path / "set", examples, texts, held_out)
    (tmp_path / "out").mkdir()
    mine_hard_negatives(source, TableEncoder(encoded), settings, tmp_path / "out")
    mined = read_retriever_file(tmp_path / "out" / "train_mined.automodel.json").examples
    want = brute_force(examples, texts, set(held_out), encoded, settings)
    assert [[each.passage_id for each in row.negatives] for row in mined] == [
        [name for name, _ in row] for row in want
    ]
    got_scores = np.array([each.score for row in mined for each in row.negatives])
    np.testing.assert_allclose(got_scores, [score for row in want for _, score in row], atol=6e-7)
    assert np.isfinite(got_scores).all()


@pytest.mark.slow
def test_two_processes_mine_the_same_bytes_as_one(large, tmp_path):
    examples, texts, held_out, encoded = large
    settings = mining_settings(
        hard_neg_margin_type="abs", hard_neg_margin=1.0, hard_negatives_to_mine=7, too_few_negatives="fill"
    )
    source = write_set(tmp_path / "set", examples, texts, held_out)
    made = []
    for devices in (["cpu"], ["cpu", "cpu"]):
        out = tmp_path / str(len(devices))
        out.mkdir()
        mine_hard_negatives(source, TableEncoder(encoded), settings, out, devices=devices)
        made.append({path.name: digest_file(path) for path in out.iterdir() if path.is_file()})
    assert made[0] == made[1]
    assert read_json(out / "summary.json")["questions_filled"] > 100


@pytest.mark.parametrize(
    ("kind", "margin", "lowest", "top"),
    [
        ("perc", 0.95, 0.8, 0.76),
        ("perc", 0.95, -0.2, -0.21),
        ("perc", 0.95, 0.0, 0.0),
        ("abs", 0.05, 0.8, 0.75),
    ],
)
def test_the_ceiling_lies_below_the_positive_whatever_its_sign(kind, margin, lowest, top):
    settings = mining_settings(hard_neg_margin_type=kind, hard_neg_margin=margin)
    np.testing.assert_allclose(ceilings(np.array([lowest]), settings), [top])


@pytest.fixture
def small(tmp_path):
    """One question at angle 0; passages at known angles, so that scores are cosines."""
    angles = {"pos": 10, "near": 12, "copy": 10, "mid": 40, "far": 80, "hidden": 30}
    passages = {name: f"{name} text" for name in angles}
    passages["copy"] = " pos   text "
    encoded = {
        passages[name]: np.array([np.cos(np.radians(a)), np.sin(np.radians(a))]) for name, a in angles.items()
    }
    encoded |= {"what?": np.array([1.0, 0.0])}
    source = write_set(tmp_path / "set", [example("q0", "what?", "pos")], passages, ["hidden"])
    out = tmp_path / "out"
    out.mkdir()
    return source, TableEncoder(encoded), out


def test_too_few_negatives_are_written_as_they_are_and_counted(small):
    source, encoder, out = small
    reported = []
    mine_hard_negatives(source, encoder, mining_settings(), out, lambda *args, **_: reported.append(args))
    row = read_json(out / "train_mined.automodel.json")["data"][0]
    # "near" is over the margin, "copy" is the positive's text, "hidden" belongs to a held-out document.
    assert row["neg_doc"] == [{"id": "mid", "score": 0.766044}, {"id": "far", "score": 0.173648}]
    assert row["pos_doc"] == [{"id": "pos", "score": 0.984808}]
    summary = read_json(out / "summary.json")
    assert (summary["questions_with_fewer_negatives"], summary["questions_without_negatives"]) == (1, 0)
    assert summary["questions_with_passages_over_the_margin"] == 1.0
    assert summary["share_excluded_by_the_margin"] == 0.2  # "near", of five passages
    assert summary["passages"] == 5
    histogram = summary["histogram"]
    assert (sum(histogram["positives"]), sum(histogram["negatives"])) == (1, 2)
    assert summary["examples"][0]["hardest_negative"] == "mid text"
    assert (out / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert reported[-1] == (1, 1, "queries")


def test_too_few_negatives_are_filled_with_the_least_suspected(small):
    source, encoder, out = small
    mine_hard_negatives(source, encoder, mining_settings(too_few_negatives="fill"), out)
    row = read_json(out / "train_mined.automodel.json")["data"][0]
    # "near" is all that there is over the margin: never the positive, its copy, or a held-out passage.
    assert [each["id"] for each in row["neg_doc"]] == ["mid", "far", "near"]
    summary = read_json(out / "summary.json")
    assert (summary["questions_with_fewer_negatives"], summary["questions_filled"]) == (1, 1)


@pytest.mark.slow
def test_what_fills_is_what_lies_closest_above_the_ceiling(large, tmp_path):
    examples, texts, held_out, encoded = large
    asked = examples[:40]
    settings = mining_settings(
        hard_neg_margin_type="abs", hard_neg_margin=1.0, hard_negatives_to_mine=7, too_few_negatives="fill"
    )
    source = write_set(tmp_path / "set", asked, texts, held_out)
    (tmp_path / "out").mkdir()
    mine_hard_negatives(source, TableEncoder(encoded), settings, tmp_path / "out")
    mined = read_retriever_file(tmp_path / "out" / "train_mined.automodel.json").examples
    below = brute_force(asked, texts, set(held_out), encoded, settings)
    everything = brute_force(
        asked,
        texts,
        set(held_out),
        encoded,
        settings.model_copy(update={"hard_neg_margin": -9.0, "hard_negatives_to_mine": 9999}),
    )
    filled = 0
    for row, under, ranked in zip(mined, below, everything, strict=True):
        names = {name for name, _ in under}
        rest = sorted(score for name, score in ranked if name not in names)
        got = [each.score for each in row.negatives]
        want = [*(score for _, score in under), *rest[: 7 - len(under)]]
        np.testing.assert_allclose(got, want, atol=6e-7)
        filled += 7 - len(under)
    assert filled > 10


def test_too_few_negatives_can_leave_questions_out(small, tmp_path):
    source, encoder, out = small
    with pytest.raises(PrepError, match=r"every question has fewer than prep.hard_negatives_to_mine = 5"):
        mine_hard_negatives(source, encoder, mining_settings(too_few_negatives="drop"), out)
    encoder.vectors["who?"] = np.array([0.0, 1.0])
    passages = {name: f"{name} text" for name in ("pos", "mid", "far")}
    both = [example("q0", "what?", "pos"), example("q1", "who?", "pos")]
    source = write_set(tmp_path / "two", both, passages)
    mine_hard_negatives(
        source, encoder, mining_settings(too_few_negatives="drop", hard_negatives_to_mine=2), out
    )
    kept = read_retriever_file(out / "train_mined.automodel.json").examples
    assert [each.question_id for each in kept] == ["q0"]  # to "who?" all others are nearer than its positive
    assert read_json(out / "summary.json")["questions_dropped"] == 1


def test_the_file_of_vectors_is_gone_after_a_failure_too(small):
    source, encoder, out = small
    del encoder.vectors["far text"]
    with pytest.raises(KeyError):
        mine_hard_negatives(source, encoder, mining_settings(), out)
    assert list(out.iterdir()) == []


def test_writes_what_the_trainer_reads_the_same_bytes_each_time_over_leftovers(small):
    source, encoder, out = small
    mine_hard_negatives(source, encoder, mining_settings(), out)
    names = [
        "train_mined.automodel.json",
        "train_mined.automodel_unrolled.json",
        "val.json",
        "corpus/train.parquet",
    ]
    before = {name: digest_file(out / name) for name in names}
    assert before["corpus/train.parquet"] == digest_file(source.path / "corpus" / "train.parquet")
    for name in names[:2]:
        (out / name).write_bytes(b"cut short")
    mine_hard_negatives(source, encoder, mining_settings(mining_batch_size=1), out)
    assert {name: digest_file(out / name) for name in names} == before


def test_a_question_whose_passage_is_missing_is_named(small, tmp_path):
    _, encoder, out = small
    source = write_set(tmp_path / "other", [example("q3", "what?", "pos", "gone")], {"pos": "pos text"})
    with pytest.raises(PrepError, match=r"question q3 names passage gone"):
        mine_hard_negatives(source, encoder, mining_settings(), out)


def test_a_teacher_suspects_what_it_ranks_near_the_positive() -> None:
    """The first question's positive has 0.8: with a margin of 0.95 a negative may score 0.76. The second's is not
    listed: whatever the teacher lists is suspected."""
    ranking = Ranking(
        np.array([[4, 0, 2, 3], [5, 6, -1, -1]]),
        np.array([[1.0, 0.8, 0.77, 0.75], [1.0, 0.1, 0, 0]], np.float32),
    )
    settings = mining_settings(hard_neg_margin_type="perc", hard_neg_margin=0.95)
    assert with_suspects([[9], []], [[0], [1]], ranking, settings) == [[0, 2, 4, 9], [5, 6]]


def test_a_window_of_ranks_draws_from_it_and_no_fewer_than_there_are() -> None:
    ids = np.array([np.arange(10), [*range(5), *[-1] * 5]])
    found = TopK(ids, np.where(ids < 0, np.nan, 1 - ids / 10), np.zeros(2, dtype=np.int64))
    near = window(found, mining_settings(hard_negatives_to_mine=3, mine_from=1))
    assert near.ids.tolist() == [[1, 2, 3], [1, 2, 3]]
    drawn = window(found, mining_settings(hard_negatives_to_mine=3, mine_from=2, mine_to=10))
    assert set(drawn.ids[0].tolist()) <= set(range(2, 10))
    assert drawn.ids[0].tolist() == sorted(drawn.ids[0])
    assert drawn.ids[1].tolist() == [2, 3, 4]
    assert drawn.scores[1].tolist() == pytest.approx([0.8, 0.7, 0.6])


def test_negatives_that_a_teacher_does_not_suspect(small, tmp_path):
    """The teacher shares the base's vectors and finds words: passages near to the positive stay out."""
    source, encoder, out = small
    settings = mining_settings(hard_neg_filter="teacher", hard_negatives_to_mine=2)
    cache = EmbeddingCache(tmp_path / "cache")
    accelerator = find_accelerator("cpu")
    mine_hard_negatives(
        source,
        encoder,
        settings,
        out,
        open_teacher=lambda passages: open_teacher("lexical:0.9", passages, encoder, accelerator, cache),
    )
    (mined,) = read_retriever_file(out / "train_mined.automodel.json").examples
    assert {each.passage_id for each in mined.negatives} <= {"mid", "far"}
