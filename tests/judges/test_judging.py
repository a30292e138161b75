"""Captions judged by the real MiniLM and by a tiny decoder, and every result file."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets_pkg.config.sections.evaluation import IntervalSettings
from assets_pkg.config.sections.judges import JudgeSettings
from assets_pkg.judges.captions import CaptionSet, read_captions
from assets_pkg.judges.errors import CaptionError, JudgeError
from assets_pkg.judges.pipeline import load_captions, present_judges, rank_captioners, score_captions
from assets_pkg.judges.report import unread
from assets_pkg.judges.scoring import harmonic_mean, judge_all, judge_captions, sentences_of
from resources.encoders.base import Role
from resources.encoders.factory import look_up
from resources.encoders.items import Input, ItemEncoder
from resources.encoders.registered_text import RegisteredTextEncoder
from resources.encoders.text_lengths import text_length
from resources.machine.accelerator import Accelerator
from resources.models.entry import ModelEntry
from resources.models.registry import Registry, load_registry
from storage.artifacts import JudgeRanking, JudgeScores
from storage.progress import Progress, no_progress
from tests.models import tiny

DATA = Path(__file__).parent / "data"
CPU = Accelerator("cpu", "cpu", bf16=False, memory_bytes=0)
NAMES = ["close", "short", "vague", "wrong"]
INTERVALS = IntervalSettings(confidence=0.95, bootstrap_samples=200, bootstrap_seed=1)


@pytest.fixture(scope="module")
def captions() -> CaptionSet:
    return read_captions(DATA / "references.json", DATA / "predictions")


class Counting:
    """An encoder that records the texts that it embeds."""

    def __init__(self, encoder: ItemEncoder):
        self._encoder = encoder
        self.texts: list[str] = []
        self.dimensions = encoder.dimensions
        self.modalities = encoder.modalities

    def identity(self, role: Role) -> str:
        return self._encoder.identity(role)

    def embed(self, items: Sequence[Input], role: Role, progress: Progress = no_progress) -> Any:
        self.texts += [item for item in items if isinstance(item, str)]
        return self._encoder.embed(items, role, progress)

    def close(self) -> None:
        self._encoder.close()


@pytest.fixture(scope="module")
def minilm_judge(minilm: Path) -> ItemEncoder:
    return RegisteredTextEncoder(minilm, load_registry().get("minilm"), "minilm", CPU)


@pytest.fixture(scope="module")
def tiny_judge(tmp_path_factory: pytest.TempPathFactory) -> ItemEncoder:
    folder = tiny.build_llama(tmp_path_factory.mktemp("llama"), model_type="llama_bidirec")
    entry = ModelEntry(
        adapter="sentence_transformer", folder="llama", pooling="mean", attention="bidirectional",
        padding_side="left", dimensions=32, max_tokens=256,
    )  # fmt: skip
    return RegisteredTextEncoder(folder, entry, "tiny", CPU)


@pytest.fixture(scope="module")
def scores(
    captions: CaptionSet,
    minilm_judge: ItemEncoder,
    tiny_judge: ItemEncoder,
    tmp_path_factory: pytest.TempPathFactory,
) -> JudgeScores:
    folder = tmp_path_factory.mktemp("scores")
    judges = {"minilm": lambda: minilm_judge, "tiny": lambda: tiny_judge}
    score_captions(captions, judges, {"nemo": "no weights"}, folder)
    return JudgeScores(folder, "judge_scores", "1")


@pytest.fixture(scope="module")
def ranking(scores: JudgeScores, tmp_path_factory: pytest.TempPathFactory) -> JudgeRanking:
    folder = tmp_path_factory.mktemp("ranking")
    rank_captioners(scores, INTERVALS, folder)
    return JudgeRanking(folder, "judge_ranking", "1")


def test_scores_equal_a_straightforward_computation_with_sentence_transformers(
    scores: JudgeScores, captions: CaptionSet, minilm: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm), device="cpu")

    @cache
    def vector(text: str) -> Any:
        return model.encode(text).astype(np.float64)

    def cosine(a: str, b: str) -> float:
        u, v = vector(a), vector(b)
        return float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))

    found = scores.scores()["scores"]["minilm"]
    for name in NAMES[:2]:
        for clip in captions.clips[:3]:
            reference, caption = captions.references[clip], captions.predictions[name][clip]
            ours, theirs = sentences_of(reference), sentences_of(caption)
            precision = sum(max(cosine(p, r) for r in ours) for p in theirs) / len(theirs)
            recall = sum(max(cosine(p, r) for p in theirs) for r in ours) / len(ours)
            f1 = 2 * precision * recall / (precision + recall)
            coarse = cosine(reference, caption)
            expected = [coarse, precision, recall, f1, 2 * coarse * f1 / (coarse + f1)]
            figures = found[name][clip]
            assert [
                figures[key] for key in ("coarse", "precision", "recall", "f1", "hm_cf")
            ] == pytest.approx(expected, abs=1e-6)
            assert (figures["reference_sentences"], figures["caption_sentences"]) == (len(ours), len(theirs))


def test_the_harmonic_mean_is_0_where_a_part_is_not_positive() -> None:
    assert harmonic_mean(0.5, 0.25) == pytest.approx(1 / 3)
    assert harmonic_mean(-0.5, 0.25) == harmonic_mean(0.25, 0.0) == 0.0


def test_every_text_is_embedded_once(captions: CaptionSet, tiny_judge: ItemEncoder) -> None:
    counting = Counting(tiny_judge)
    judge_captions(counting, captions)
    references = [captions.references[clip] for clip in captions.clips]
    assert [counting.texts.count(text) for text in references] == [1] * len(references)


def test_files_are_in_the_layout_of_clip_cc_bench(scores: JudgeScores, captions: CaptionSet) -> None:
    root = scores.path / "embedding_models"
    rows = list(csv.reader((root / "individual_results/csv/minilm/short.csv").open()))
    assert rows[0] == ["video_id", "coarse_similarity", "fine_precision", "fine_recall", "fine_f1", "hm_cf"]
    assert [row[0] for row in rows[1:]] == list(captions.clips)
    individual = json.loads((root / "individual_results/json/minilm/short.json").read_text())
    first = individual[captions.clips[0]]
    assert first["reference"] == captions.references[captions.clips[0]]
    assert set(first["similarity_data"]) == {"coarse_grained", "fine_grained", "hybrid", "metadata"}
    aggregated = json.loads((root / "aggregated_results/minilm/short.json").read_text())
    mean = np.mean([s["similarity_data"]["hybrid"]["hm_cf"] for s in individual.values()])
    assert aggregated["hybrid_stats"]["hm_cf"]["mean"] == round(float(mean), 6)
    assert (aggregated["total_evaluations"], aggregated["error_rate"]) == (6, 0.0)
    table = list(csv.reader((root / "aggregated_results/aggregated_results.csv").open()))
    assert table[0] == [
        "Model Name", "minilm_coarse", "minilm_fine_f1", "minilm_hm_cf",
        "tiny_coarse", "tiny_fine_f1", "tiny_hm_cf",
    ]  # fmt: skip
    assert [row[0] for row in table[1:]] == NAMES


def test_the_ranking_is_borda_over_both_judges(scores: JudgeScores, ranking: JudgeRanking) -> None:
    found = scores.scores()["scores"]
    points = dict.fromkeys(NAMES, 0)
    for judge in ("minilm", "tiny"):
        means = {name: np.mean([s["hm_cf"] for s in found[judge][name].values()]) for name in NAMES}
        for name in NAMES:
            points[name] += sum(means[name] > means[other] for other in NAMES)
    document = ranking.ranking()
    assert {row["captioner"]: row["points"] for row in document["ranking"]} == points
    overall = list(csv.DictReader((ranking.path / "ranking/vlm_overall_ranking.csv").open()))
    assert [row["VLM"] for row in overall] == [row["captioner"] for row in document["ranking"]]
    assert list(overall[0]) == ["Rank", "VLM", "Borda", "MeanJudge", "StdJudge"]
    metrics = list(csv.reader((ranking.path / "ranking/vlm_per_judge_metrics.csv").open()))
    assert metrics[0] == ["", "", "minilm", "minilm", "minilm", "tiny", "tiny", "tiny"]
    assert "±" in metrics[2][2]


def test_the_report_names_who_judged_and_who_was_missing(ranking: JudgeRanking) -> None:
    page = (ranking.path / "report.md").read_text("utf-8")
    assert "Judges: minilm, tiny." in page
    assert "- nemo: no weights" in page
    assert "minilm ~ tiny" in page
    for name in ("ranking.png", "agreement.png"):
        assert (ranking.path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_page_is_whole_and_shows_names_and_captions_as_they_are(
    captions: CaptionSet, tiny_judge: ItemEncoder, tmp_path: Path
) -> None:
    clips = captions.clips
    hostile = {clip: f"<script>alert({clip})</script> {captions.references[clip]}" for clip in clips}
    made = replace(
        captions, predictions={**captions.predictions, "<b>x</b>": hostile}, left_out={"9": ["close"]}
    )
    judges = {"tiny": lambda: tiny_judge, "again": lambda: tiny_judge}
    score_captions(made, judges, {"nemo": "no weights & none"}, tmp_path)
    rank_captioners(JudgeScores(tmp_path, "s", "1"), INTERVALS, tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "no weights &amp; none" in page
    assert "1 of 6 clips are left out for all captioners" in page
    sources = re.findall(r"""(?:src|href)=["']?([^"'> ]{0,20})""", page)
    assert sources
    assert all(source.startswith("data:image/png;") for source in sources)
    floors = JudgeScores(tmp_path, "s", "1").floors()
    assert f"<td>{floors['tiny']:.4f}</td>" in page


def test_the_floor_is_the_score_of_another_clips_reference(
    captions: CaptionSet, tiny_judge: ItemEncoder
) -> None:
    clips = captions.clips
    shifted = {clip: captions.references[clips[(row + 1) % len(clips)]] for row, clip in enumerate(clips)}
    judged = judge_captions(tiny_judge, replace(captions, predictions={"shifted": shifted}))
    values = [score.hm_cf for score in judged.scores["shifted"].values()]
    assert judged.floor == pytest.approx(np.mean(values))


@pytest.mark.slow
def test_the_same_scores_give_the_same_bytes(
    captions: CaptionSet, tiny_judge: ItemEncoder, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        score_captions(captions, {"tiny": lambda: tiny_judge}, {}, tmp_path / name)
        rank_captioners(JudgeScores(tmp_path / name, "s", "1"), INTERVALS, tmp_path / name)
    for file in ("scores.json", "ranking.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def settings(**values: Any) -> JudgeSettings:
    defaults: dict[str, Any] = {
        "references": str(DATA / "references.json"),
        "predictions_dir": str(DATA / "predictions"),
        "judge_models": ["minilm", "nv-embed-v2"],
        "min_judges": 1,
        "allow_gaps": False,
        "published_results": None,
    }
    return JudgeSettings(**(defaults | values))


def test_missing_judges_are_named_with_their_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETUNE_EMBEDDING_MODELS", str(tmp_path))
    found = present_judges(settings(), load_registry())
    assert [(judge.name, judge.usable) for judge in found] == [
        ("all-minilm-l6-v2", True),
        ("nv-embed-v2", False),
    ]
    assert "docs/remote-models.md" in (found[1].problem or "")
    with pytest.raises(
        JudgeError, match=r"1 of 2 judges can be used.*nv-embed-v2: runs only behind a server"
    ):
        present_judges(settings(min_judges=2), load_registry())


@pytest.mark.parametrize(
    ("name", "registered"),
    [
        ("NV-Embed-v2", "nv-embed-v2"),
        ("nemo", "llama-embed-nemotron-8b"),
        ("Qwen3-Embedding-8B", "qwen3-embedding-8b"),
        ("KaLM-Embedding-Gemma3-12B-2511", "kalm-gemma3-12b"),
        ("gte-Qwen2-7B-instruct", "gte-qwen2-7b"),
    ],
)
def test_a_judge_may_have_the_name_and_folder_of_clip_cc_bench(
    name: str, registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETUNE_EMBEDDING_MODELS", str(tmp_path))
    (_, judge) = present_judges(settings(judge_models=["minilm", name]), load_registry())
    assert judge.name == registered
    if judge.entry.adapter != "http":
        assert f"retune models download {registered}" in (judge.problem or "")
        hub_name = (judge.entry.hub_id or "").split("/")[1]
        (tmp_path / hub_name).mkdir()
        (tmp_path / hub_name / "config.json").write_text("{}")
        assert look_up(load_registry(), registered).location.folder == tmp_path / hub_name


def test_progress_within_a_judge_counts_its_texts(captions: CaptionSet, tiny_judge: ItemEncoder) -> None:
    seen: list[tuple[int, int, str]] = []

    def record(done: int, total: int, unit: str, **_: float) -> None:
        seen.append((done, total, unit))

    judge_all({"one": lambda: tiny_judge, "two": lambda: tiny_judge}, captions, record)
    for number, name in ((1, "one"), (2, "two")):
        own = [each for each in seen if each[2] == f"texts by {name} (judge {number} of 2)"]
        assert len(own) >= 5
        assert own == sorted(own)
        assert own[-1][0] == own[-1][1]


def test_what_a_judge_truncates_is_counted(
    captions: CaptionSet, minilm: Path, minilm_judge: ItemEncoder, tmp_path: Path
) -> None:
    long = dict(captions.predictions["close"]) | {captions.clips[0]: "The pump runs at noon. " * 60}
    made = replace(captions, predictions={"close": captions.predictions["close"], "long": long})
    length = text_length(look_up(load_registry(), "minilm"))
    assert length is not None
    score_captions(made, {"minilm": lambda: minilm_judge}, {}, tmp_path, limits={"minilm": length})
    scores = JudgeScores(tmp_path, "judge_scores", "1")
    assert scores.truncated()["minilm"] == {
        "tokens": 256, "clips": 6, "references": 0, "captions": {"close": 0, "long": 1},
    }  # fmt: skip
    assert unread(scores, ["minilm", "served"]) == [
        "minilm reads at most 256 tokens: 0 of 6 references and 1 of 12 captions are longer and are judged by their "
        "beginning",
        "served may truncate: its limit is not known here (a server, or a folder without tokenizer.json)",
    ]


def test_nothing_to_judge_is_said() -> None:
    with pytest.raises(CaptionError, match=r"set judges\.references=FILE"):
        load_captions(settings(references=None))


@pytest.mark.slow
def test_the_assets_judge_and_rank(
    tmp_path: Path, tiny_judge: ItemEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster as dg

    from assets_pkg.config.profile_files import load_profile
    from assets_pkg.judges.assets import build_assets
    from resources.configurable import AcceleratorResource, ArtifactStoreResource, ComputeResource

    models = tmp_path / "embedding_models"
    tiny.build_llama(models / "small", model_type="llama_bidirec")
    small = ModelEntry(
        adapter="sentence_transformer",
        folder="small",
        pooling="mean",
        attention="bidirectional",
        max_tokens=128,
    )
    entries = {"small": small, "absent": small.model_copy(update={"folder": "absent"})}
    monkeypatch.setenv("RETUNE_EMBEDDING_MODELS", str(models))
    monkeypatch.setattr(
        "assets_pkg.judges.assets.load_registry", lambda: Registry(Path("models.yaml"), entries)
    )
    profile = load_profile(
        "laptop",
        [
            f"artifact_root={tmp_path / 'out'}",
            f"judges.references={DATA / 'references.json'}",
            f"judges.predictions_dir={DATA / 'predictions'}",
            "judge_models=[small,absent]",
            "bootstrap_samples=100",
        ],
    )
    resources = {
        "store": ArtifactStoreResource(root=str(tmp_path / "out")),
        "accelerator": AcceleratorResource(device="cpu"),
        "compute": ComputeResource(),
    }
    result = dg.materialize(build_assets(profile), resources=resources)
    (scored,) = result.asset_materializations_for_node("judge_scores")
    (ranked,) = result.asset_materializations_for_node("judge_ranking")
    assert scored.metadata["captions_digest"].value == load_captions(profile.judges).digest()
    assert scored.metadata["judges_used"].value == "small"
    assert "| absent | no weights in" in str(scored.metadata["skipped"].value)
    assert ranked.metadata["first"].value in NAMES
    assert (tmp_path / "out" / "judges" / "ranking" / "report.md").is_file()
