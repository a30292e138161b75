"""The colour benchmark from end to end: the real MiniLM through captions, a tiny CLIP and a tiny Qwen3-VL on images."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assets_pkg.config.profile import Profile
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.evaluation import IntervalSettings
from assets_pkg.config.sections.image_text import CaptionSettings, PairSettings, ScoreSettings
from assets_pkg.image_text.assets import load_pairs
from assets_pkg.image_text.captions import captioning_model, write_captions
from assets_pkg.image_text.errors import BenchmarkError
from assets_pkg.image_text.pairs import Pair, write_pairs
from assets_pkg.image_text.report import write_report
from assets_pkg.image_text.scores import score_models, split_models
from assets_pkg.sdg.llm import chat_config
from resources.chat_model.client import ChatModel
from resources.chat_model.errors import BudgetReachedError, ConsentError
from resources.encoders.factory import look_up, open_encoder
from resources.encoders.registered_text import RegisteredTextEncoder
from resources.machine.accelerator import Accelerator
from resources.models.entry import ModelEntry
from resources.models.registry import Registry, load_registry
from storage.artifacts import Captions, ImageTextPairs, ImageTextReport, ImageTextScores
from tests.image_text.vision_stub import Vision, vision_model
from tests.models import tiny
from tests.models.conftest import CLIP, QWEN3_VL

pytestmark = pytest.mark.slow

CPU = Accelerator("cpu", "cpu", bf16=False, memory_bytes=0)
COLOURS = 300
"""The first of the survey's 949: enough to tell captions from the baselines."""

INTERVALS = IntervalSettings(confidence=0.95, bootstrap_samples=500, bootstrap_seed=1)
SCORES = ScoreSettings(
    image_text_models=["x"],
    recall_at=[1, 5, 10],
    fuse_captions=True,
    truncate_dimensions=None,
    load_precision=None,
)


def caption_settings(**values: Any) -> CaptionSettings:
    defaults: dict[str, Any] = {
        "captioner": "nearest_colour",
        "caption_model": "vision",
        "caption_base_url": "http://127.0.0.1:1/v1",
        "caption_prompt": "Caption the content of this image:",
        "caption_system": "/no_think",
        "caption_max_tokens": 64,
    }
    return CaptionSettings(**(defaults | values))


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(PairSettings(pairs="colours://xkcd", num_pairs_limit=COLOURS), folder)
    return load_pairs(ImageTextPairs(folder, "image_text_pairs", "1"))


@pytest.fixture(scope="module")
def captions(colours: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Captions:
    folder = tmp_path_factory.mktemp("captions")
    write_captions(colours, caption_settings(), None, folder)
    return Captions(folder, "captions", "1")


@pytest.fixture(scope="module")
def minilm_scores(
    colours: list[Pair], captions: Captions, minilm: Path, tmp_path_factory: pytest.TempPathFactory
) -> ImageTextScores:
    """The colours through the real text model, and a tiny CLIP on the swatches."""
    models = tmp_path_factory.mktemp("models")
    clip = look_up(
        Registry(Path("models.yaml"), {"tiny-clip": ModelEntry.model_validate(CLIP)}),
        "tiny-clip",
        tiny.build_clip(models / "clip").parent,
    )
    text = RegisteredTextEncoder(minilm, load_registry().get("minilm"), "minilm", CPU)
    folder = tmp_path_factory.mktemp("scores")
    encoders = {"minilm": lambda: text, "tiny-clip": lambda: open_encoder(clip, CPU)}
    score_models(colours, captions.captions(), encoders, {"nv": "no weights"}, SCORES, folder)
    return ImageTextScores(folder, "image_text_scores", "1")


@pytest.fixture(scope="module")
def report(
    minilm_scores: ImageTextScores, captions: Captions, tmp_path_factory: pytest.TempPathFactory
) -> ImageTextReport:
    folder = tmp_path_factory.mktemp("report")
    write_report(minilm_scores, captions, INTERVALS, SCORES.recall_at, folder)
    return ImageTextReport(folder, "image_text_report", "1")


class TestColours:
    def test_captions_are_between_the_baselines_and_the_upper_bound(
        self, minilm_scores: ImageTextScores
    ) -> None:
        figures = minilm_scores.scores()["models"]["minilm"]
        found = {condition: groups["retrieval"]["R@1 t2i"] for condition, groups in figures.items()}
        assert list(found) == ["caption", "oracle", "constant", "random"]
        assert found["oracle"] > 0.5
        assert 5 / COLOURS < found["caption"] < 0.1
        assert found["constant"] == pytest.approx(1 / COLOURS)
        assert found["random"] < 5 / COLOURS

    def test_mean_distance_alone_ranks_a_constant_above_real_captions_of_some_kinds(
        self, minilm_scores: ImageTextScores
    ) -> None:
        figures = minilm_scores.scores()["models"]
        distance = {name: groups["distance"]["mean"] for name, groups in figures["minilm"].items()}
        assert distance["oracle"] < distance["caption"] < distance["constant"] < distance["random"]
        # The tiny random CLIP sees the images and is still farther from them than a constant sentence.
        assert distance["constant"] < figures["tiny-clip"]["native"]["distance"]["mean"]

    def test_closeness_of_oracle_captions_follows_closeness_of_colours_more_than_a_constant(
        self, minilm_scores: ImageTextScores
    ) -> None:
        figures = minilm_scores.scores()["models"]["minilm"]
        assert figures["caption"]["colour"]["spearman images"] > 0.05
        assert figures["constant"]["colour"]["spearman images"] == 0.0
        assert figures["oracle"]["colour"]["first dE t2i"] < figures["caption"]["colour"]["first dE t2i"]
        assert figures["random"]["colour"]["first dE t2i"] == pytest.approx(80.6, rel=0.1)

    def test_the_table_is_that_of_color_perception_bench(self, minilm_scores: ImageTextScores) -> None:
        with (minilm_scores.path / "benchmark_results.tsv").open(newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        assert list(rows[0]) == [
            "timestamp", "model_name", "n_colors", "mean_distance", "median_distance", "std_distance", "variance",
            "min_distance", "max_distance",
        ]  # fmt: skip
        assert [row["model_name"] for row in rows] == ["minilm+caption", "tiny-clip", "tiny-clip+caption"]
        assert {row["n_colors"] for row in rows} == {str(COLOURS)}
        assert all(len(row["mean_distance"].partition(".")[2]) == 6 for row in rows)

    def test_pictures_are_drawn_for_every_measured_condition(self, minilm_scores: ImageTextScores) -> None:
        names = sorted(path.name for path in (minilm_scores.path / "figs").glob("*.png"))
        assert names == [
            "minilm+caption_correlation.png",
            "tiny-clip+caption_correlation.png",
            "tiny-clip+native_correlation.png",
        ]

    def test_the_report_says_what_is_above_the_baseline_and_what_was_skipped(
        self, report: ImageTextReport
    ) -> None:
        document = report.report()
        above = {(row["model"], row["condition"]): row["above_floor"] for row in document["against_floor"]}
        assert above["minilm", "caption"] is True
        assert above["tiny-clip", "native"] is False
        for row in document["measured"]:
            assert row["low"] <= row["value"] <= row["high"]
        assert {row["model"] for row in document["caption_against_native"]} == {"tiny-clip"}
        page = (report.path / "report.md").read_text("utf-8")
        assert "- nv: no weights" in page
        assert "## Captions instead of images" in page
        assert (report.path / "mrr.png").read_bytes().startswith(b"\x89PNG")

    def test_the_page_is_whole_and_names_the_captioner_the_bounds_and_what_was_left_out(
        self, report: ImageTextReport
    ) -> None:
        page = (report.path / "report.html").read_text("utf-8")
        assert "Captions by rule, without a model: the name of the CSS colour that is nearest" in page
        assert "Model nv: no weights" in page
        for text in ("oracle (ceiling)", "constant (floor)", "random (chance)", "<b>cloudy blue</b>"):
            assert text in page
        sources = re.findall(r"""(?:src|href)=["']?([^"'> ]{0,20})""", page)
        assert len(sources) >= 12
        assert all(source.startswith(("data:image/png;", "data:image/jpeg;")) for source in sources)

    def test_paired_intervals_are_those_of_scipy(
        self, report: ImageTextReport, minilm_scores: ImageTextScores
    ) -> None:
        import numpy as np
        from scipy.stats import bootstrap

        from assets_pkg.image_text.measures import Ranks

        ranks = json.loads((minilm_scores.path / "ranks.json").read_text())["minilm"]["caption"]["t2i"]
        values = Ranks(np.array(ranks["greater"]), np.array(ranks["equal"])).reciprocal()
        expected = bootstrap(
            (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        (row,) = (
            row
            for row in report.report()["measured"]
            if (row["model"], row["condition"], row["metric"]) == ("minilm", "caption", "MRR t2i")
        )
        assert row["value"] == pytest.approx(values.mean())
        assert (row["low"], row["high"]) == pytest.approx(tuple(expected), rel=0.1)


def test_a_model_of_both_is_measured_on_images_captions_and_both(
    colours: list[Pair], captions: Captions, tmp_path: Path
) -> None:
    folder = tiny.build_qwen3_vl(tmp_path / "qwen3-vl")
    registry = Registry(Path("models.yaml"), {"tiny-qwen": ModelEntry.model_validate(QWEN3_VL)})
    found = look_up(registry, "tiny-qwen", folder.parent)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        score_models(
            colours[:24],
            captions.captions(),
            {"tiny-qwen": lambda: open_encoder(found, CPU)},
            {},
            SCORES,
            tmp_path / name,
        )
    figures = json.loads((tmp_path / "a" / "scores.json").read_text())["models"]["tiny-qwen"]
    assert list(figures) == ["native", "caption", "fused", "oracle", "constant", "random"]
    assert all(
        math.isfinite(value) for groups in figures.values() for g in groups.values() for value in g.values()
    )
    for file in ("scores.json", "ranks.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_models_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    registry = Registry(Path("models.yaml"), {"clip": ModelEntry.model_validate(CLIP)})
    missing = look_up(registry, "clip", tmp_path)
    with pytest.raises(BenchmarkError, match=r"none of the models can be used. clip: no weights in"):
        split_models([missing])


class TestVision:
    """Captions by a vision model behind an OpenAI-compatible endpoint."""

    @pytest.fixture
    def vision(self) -> Iterator[Vision]:
        with vision_model(Vision()) as vision:
            yield vision

    @pytest.fixture
    def profile(self, tmp_path: Path) -> Profile:
        return load_profile("laptop", [f"artifact_root={tmp_path}"])

    def run(
        self, vision: Vision, profile: Profile, pairs: list[Pair], folder: Path, url: str = ""
    ) -> Captions:
        settings = caption_settings(captioner="vlm", caption_base_url=url or vision.url)
        chat = ChatModel(chat_config(profile.sdg, folder.parent / "answers.sqlite"))
        folder.mkdir(parents=True)
        write_captions(pairs, settings, captioning_model(settings, chat), folder)
        return Captions(folder, "captions", "1")

    def test_each_image_is_asked_about_once_and_the_answer_is_kept(
        self, vision: Vision, profile: Profile, colours: list[Pair], tmp_path: Path
    ) -> None:
        made = self.run(vision, profile, colours[:6], tmp_path / "c" / "one")
        assert made.captions()["cloudy blue"] == "A plain lightsteelblue square."
        assert len(vision.asked) == 6
        body = vision.asked[0]
        assert (body["temperature"], body["max_tokens"], body["model"]) == (0.0, 64, "vision")
        assert body["messages"][0] == {"role": "system", "content": "/no_think"}
        assert [part["type"] for part in body["messages"][1]["content"]] == ["text", "image_url"]
        again = self.run(vision, profile, colours[:6], tmp_path / "c" / "two")
        assert len(vision.asked) == 6
        assert again.captions() == made.captions()
        assert again.summary()["reused"] == 6
        assert (made.summary()["prompt_tokens"], made.summary()["failed"]) == (600, 0)

    def test_a_refusal_is_recorded_and_there_is_no_caption(
        self, vision: Vision, profile: Profile, colours: list[Pair], tmp_path: Path
    ) -> None:
        vision.refuse = ("lightsteelblue",)
        made = self.run(vision, profile, colours[:4], tmp_path / "c" / "one")
        assert made.captions()["cloudy blue"] is None
        assert '"reason": "refused"' in (made.path / "captions.jsonl").read_text()
        assert made.summary()["failed"] == 1
        assert made.summary()["failed_refused"] == 1

    def test_nothing_leaves_the_machine_without_consent(
        self, vision: Vision, profile: Profile, colours: list[Pair], tmp_path: Path
    ) -> None:
        with pytest.raises(
            ConsentError,
            match=r"4 images would be sent to example\.org.*sdg\.approved_endpoints=\[example\.org\].*"
            r"keep the images here: image_text\.caption_base_url=http://127\.0\.0\.1:PORT/v1, or "
            r"image_text\.captioner=none",
        ):
            self.run(vision, profile, colours[:4], tmp_path / "c" / "one", url="http://example.org/v1")
        assert vision.asked == []

    def test_the_budget_of_the_profile_holds_for_images_too(
        self, vision: Vision, colours: list[Pair], tmp_path: Path
    ) -> None:
        profile = load_profile("laptop", [f"artifact_root={tmp_path}", "max_calls=2"])
        with pytest.raises(BudgetReachedError):
            self.run(vision, profile, colours[:4], tmp_path / "c" / "one")
        assert len(vision.asked) == 2

    def test_named_colours_are_only_for_images_of_one_colour(
        self, colours: list[Pair], tmp_path: Path
    ) -> None:
        photo = Pair("photo", "a photo", colours[0].image)
        with pytest.raises(BenchmarkError, match=r"photo is not: set image_text\.captioner=vlm or none"):
            write_captions([photo], caption_settings(), None, tmp_path)


def test_the_assets_run_and_skip_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster as dg

    from assets_pkg.image_text.assets import build_assets
    from assets_pkg.orchestration.resources import build_resources
    from resources.configurable import AcceleratorResource, ArtifactStoreResource, ComputeResource

    models = tmp_path / "embedding_models"
    tiny.build_clip(models / "clip")
    entries = {
        "clip": ModelEntry.model_validate(CLIP),
        "absent": ModelEntry.model_validate({**CLIP, "folder": "absent"}),
    }
    monkeypatch.setenv("RETUNE_EMBEDDING_MODELS", str(models))
    monkeypatch.setattr(
        "assets_pkg.image_text.assets.load_registry", lambda: Registry(Path("models.yaml"), entries)
    )
    overrides = [
        f"artifact_root={tmp_path / 'out'}",
        "image_text_models=[clip,absent]",
        "num_pairs_limit=40",
        "bootstrap_samples=100",
    ]
    profile = load_profile("laptop", overrides)
    resources = {
        "store": ArtifactStoreResource(root=str(tmp_path / "out")),
        "accelerator": AcceleratorResource(device="cpu"),
        "compute": ComputeResource(),
        "chat_model": build_resources(profile).chat_model,
    }
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(build_assets(profile), resources=resources, instance=instance)
        (scores,) = result.asset_materializations_for_node("image_text_scores")
        assert scores.metadata["models_used"].value == "clip"
        assert "| absent | no weights in" in str(scores.metadata["skipped"].value)
        (page,) = result.asset_materializations_for_node("image_text_report")
        assert "# Images and texts" in str(page.metadata["tables"].value)
        assert str(page.metadata["report"].value).endswith("report.html")
        assert (tmp_path / "out" / "image_text" / "benchmark_results.tsv").is_file()
        # A model that arrives later is measured: what is usable is part of what decides the scores.
        tiny.build_clip(models / "absent")
        later = dg.materialize(build_assets(profile), resources=resources, instance=instance)
        (scores,) = later.asset_materializations_for_node("image_text_scores")
        assert scores.metadata["models_used"].value == "clip, absent"
