"""The stage against a real server: complete, incremental, resumable, within budget and consent."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from material import KEY, generate, make_corpus, sdg_settings
from scripted_endpoint import ScriptedEndpoint

from assets_pkg.sdg.llm import AcceptRateError
from assets_pkg.sdg.llm.extraction import ARTIFACT_TYPES
from resources.chat_model import retries
from resources.chat_model.errors import BudgetReachedError, ConsentError, EndpointError
from storage.formats.qa_records import SourceRecord, read_records

CONTENT = "qa_records.jsonl"
KILLS = 4
LATENCY = 0.5


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.02)


def records_in(folder: Path) -> list[SourceRecord]:
    return list(read_records(folder / CONTENT))


def rejected_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text("utf-8").splitlines()]


def summary_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text("utf-8"))


@pytest.mark.slow
def test_every_pair_is_there_with_its_types_segments_and_scores(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    folder = generate(make_corpus(tmp_path / "in", 40), sdg_settings(endpoint.base_url), tmp_path / "out")
    records = records_in(folder)
    assert [record.source_id for record in records] == [f"doc{number:05}.txt" for number in range(40)]
    for record in records:
        pairs = record.deduplicated_qa_pairs
        assert Counter(pair.query_type for pair in pairs) == {
            "multi_hop": 3,
            "structural": 2,
            "contextual": 2,
        }
        assert len({pair.reasoning_type for pair in pairs}) == 7
        assert len(record.qa_evaluations.evaluations) == 7
        assert all(set(pair.segment_ids) <= {1, 2, 3, 4} for pair in pairs)
        assert all(pair.hop_count == len(pair.hop_contexts) for pair in pairs)
        assert record.generator == "nvidia/nemotron-3-nano-30b-a3b"
    stats, summary = endpoint.stats(), summary_in(folder)
    assert stats["by_step"] == {"artifacts": 40, "pairs": 40, "evaluations": 40}
    assert (summary["pairs"], summary["pairs_asked"], summary["accept_rate"]) == (280, 280, 1.0)
    assert (summary["calls"], summary["rejected"]) == (120, {})
    assert sum(summary["score_histogram"].values()) == 280
    assert summary["query_types"]["multi_hop"] == {"asked": 120, "pairs": 120}
    assert len(summary["sample_pairs"]) == 10
    assert rejected_in(folder) == []
    result = json.loads((folder / "generation_result.json").read_text())
    assert result == {"schema_version": 1, "dataset_name": "synthetic_qa", "output_path": CONTENT}


@pytest.mark.slow
def test_what_is_made_does_not_depend_on_timing(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    artifacts = make_corpus(tmp_path / "in", 40)
    for name, parallel in (("a", 1), ("b", 16)):
        settings = sdg_settings(endpoint.base_url, max_parallel_requests_for_gen=parallel)
        generate(artifacts, settings, tmp_path / name / "out")
    assert (tmp_path / "a/out" / CONTENT).read_bytes() == (tmp_path / "b/out" / CONTENT).read_bytes()


# ---- failures are counted, named and kept ------------------------------------------------------------------

SEARCH, JUDGE = "search box", "judge question"
GOOD_PAIR = {"question": "q", "answer": "a", "complexity": 3, "hops": [{"segments": [1], "summary": "s"}]}

ALWAYS = [
    ({"match": SEARCH, "do": "text", "text": "no json today"}, "generate", "invalid_json", 7),
    ({"match": SEARCH, "do": "cut"}, "generate", "wrong_count", None),
    ({"match": SEARCH, "do": "text", "text": ""}, "generate", "empty_answer", 7),
    ({"match": SEARCH, "do": "text", "text": "I’m sorry, I can’t do that."}, "generate", "refusal", 7),
    ({"match": SEARCH, "do": "refuse"}, "generate", "refusal", 7),
    ({"match": SEARCH, "do": "drop", "count": 2}, "generate", "wrong_count", 2),
    ({"match": SEARCH, "do": "set", "values": {"answer": None}}, "generate", "invalid_item", 1),
    (
        {"match": SEARCH, "do": "set", "values": {"hops": [{"segments": [9], "summary": "s"}]}},
        "generate",
        "missing_segment",
        1,
    ),
    ({"match": SEARCH, "do": "set", "values": {"complexity": 1}}, "generate", "low_complexity", 1),
    ({"match": SEARCH, "do": "set", "values": {"hops": GOOD_PAIR["hops"] * 4}}, "generate", "hop_count", 1),
    (
        {"match": SEARCH, "do": "set", "values": {"question": "The same?"}, "count": 2},
        "generate",
        "near_duplicate",
        1,
    ),
    ({"match": SEARCH, "do": "status", "status": 400, "body": "too long"}, "generate", "bad_request", 7),
    ({"match": SEARCH, "do": "text", "text": "{", "finish": "length"}, "generate", "truncated", 7),
    ({"match": JUDGE, "do": "drop", "count": 3}, "judge", "judge_mismatch", 3),
    ({"match": JUDGE, "do": "text", "text": "all good!"}, "judge", "invalid_json", 7),
    (
        {"match": JUDGE, "do": "set", "values": {"overall": {"score": 11, "assessment": ""}}},
        "judge",
        "invalid_item",
        1,
    ),
]


@pytest.mark.parametrize(("rule", "step", "reason", "count"), ALWAYS, ids=lambda value: str(value)[:40])
def test_what_cannot_be_used_is_kept_with_its_reason(
    endpoint: ScriptedEndpoint,
    tmp_path: Path,
    rule: dict[str, Any],
    step: str,
    reason: str,
    count: int | None,
) -> None:
    endpoint.script(rule)
    settings = sdg_settings(endpoint.base_url, min_accept_rate=0)
    folder = generate(make_corpus(tmp_path / "in", 1), settings, tmp_path / "out")
    rejected = [row for row in rejected_in(folder) if "number" in row]
    assert {(row["step"], row["reason"]) for row in rejected} == {(step, reason)}
    assert count in (None, len(rejected))
    assert all(row["source_id"] == "doc00000.txt" and row["detail"] for row in rejected)
    (record,) = records_in(folder)
    assert len(record.deduplicated_qa_pairs) == len(record.qa_evaluations.evaluations) == 7 - len(rejected)
    assert summary_in(folder)["rejected"][reason] == len(rejected)


PASSING = [
    {"match": SEARCH, "do": "text", "text": "no json today", "times": 1},
    {"match": SEARCH, "do": "cut", "times": 1},
    {"match": SEARCH, "do": "text", "text": "", "times": 1},
    {"match": SEARCH, "do": "drop", "count": 3, "times": 1},
    {"match": SEARCH, "do": "set", "values": {"complexity": 1}, "count": 2, "times": 1},
    {"match": SEARCH, "do": "too_long", "most": 2},
    {"match": SEARCH, "do": "prose"},
    {"match": SEARCH, "do": "set", "values": {"answer": "half a pair \ud83d is left"}},
    {"match": JUDGE, "do": "drop", "count": 2, "times": 1},
    {"match": JUDGE, "do": "too_long", "most": 3},
    {"match": "worth asking about in a", "do": "too_long", "most": 5},
    {"match": "WITH_SCHEMA", "do": "status", "status": 422},
]


@pytest.mark.parametrize("rule", PASSING, ids=lambda rule: f"{rule['match']} {rule['do']}")
def test_what_can_be_mended_is(endpoint: ScriptedEndpoint, tmp_path: Path, rule: dict[str, Any]) -> None:
    endpoint.script(rule)
    folder = generate(make_corpus(tmp_path / "in", 1), sdg_settings(endpoint.base_url), tmp_path / "out")
    (record,) = records_in(folder)
    assert len(record.deduplicated_qa_pairs) == 7
    assert [row for row in rejected_in(folder) if "number" in row] == []


def test_entries_that_nobody_asked_for_are_noted(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script({"match": SEARCH, "do": "extra"})
    folder = generate(make_corpus(tmp_path / "in", 1), sdg_settings(endpoint.base_url), tmp_path / "out")
    assert [(row["step"], row["reason"]) for row in rejected_in(folder)] == [("generate", "surplus")]
    assert len(records_in(folder)[0].deduplicated_qa_pairs) == 7


def test_pairs_are_written_without_artifacts_if_there_are_none(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    endpoint.script({"match": "worth asking about in a", "do": "refuse"})
    folder = generate(make_corpus(tmp_path / "in", 1), sdg_settings(endpoint.base_url), tmp_path / "out")
    assert {(row["step"], row["reason"]) for row in rejected_in(folder)} == {("extract", "refusal")}
    assert len(records_in(folder)[0].deduplicated_qa_pairs) == 7


def test_only_the_missing_pairs_are_asked_for_again(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script({"match": SEARCH, "do": "drop", "count": 2, "times": 1})
    generate(make_corpus(tmp_path / "in", 1), sdg_settings(endpoint.base_url), tmp_path / "out")
    repair = next(body for body in endpoint.stats()["bodies"] if len(body["messages"]) == 4)
    wanted = repair["messages"][-1]["content"]
    assert "Pair 6:" in wanted
    assert "Pair 7:" in wanted
    assert "Pair 5:" not in wanted


def test_every_artifact_reaches_the_question_prompt(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    generate(make_corpus(tmp_path / "in", 1), sdg_settings(endpoint.base_url), tmp_path / "out")
    prompt = next(body for body in endpoint.stats()["bodies"] if SEARCH in body["messages"][1]["content"])
    for kind in ARTIFACT_TYPES:
        assert f"- {kind.replace('_', ' ')}: " in prompt["messages"][1]["content"]


def test_a_run_with_too_few_good_pairs_fails_with_the_reasons(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    endpoint.script({"match": SEARCH, "do": "drop", "count": 6})
    artifacts, settings = make_corpus(tmp_path / "in", 10), sdg_settings(endpoint.base_url)
    with pytest.raises(
        AcceptRateError, match=r"10 of 70 pairs asked for \(14%\)[\s\S]*wrong_count +60"
    ) as caught:
        generate(artifacts, settings, tmp_path / "out")
    assert "min_accept_rate = 50%" in str(caught.value)
    assert len(rejected_in(tmp_path / "out")) == 60
    assert not (tmp_path / "out" / "generation_result.json").exists()


@pytest.mark.slow
def test_a_hopeless_run_is_given_up_early(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script({"match": SEARCH, "do": "refuse"})
    artifacts = make_corpus(tmp_path / "in", 400)
    with pytest.raises(AcceptRateError, match="refusal"):
        generate(artifacts, sdg_settings(endpoint.base_url), tmp_path / "out")
    assert endpoint.stats()["by_step"]["pairs"] < 250


@pytest.mark.slow
def test_the_same_question_about_another_document_is_dropped(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    endpoint.script({"match": SEARCH, "do": "set", "values": {"question": "What is it all about?"}})
    settings = sdg_settings(endpoint.base_url)
    folder = generate(make_corpus(tmp_path / "in", 70), settings, tmp_path / "out")
    assert summary_in(folder)["rejected"] == {"near_duplicate": 69}
    assert all("doc00000.txt" in row["detail"] for row in rejected_in(folder))


# ---- nothing is paid for twice -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_run_asks_nothing_and_makes_the_same(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    artifacts, settings = make_corpus(tmp_path / "in", 20), sdg_settings(endpoint.base_url)
    first = generate(artifacts, settings, tmp_path / "out").joinpath(CONTENT).read_bytes()
    endpoint.script()
    again = generate(artifacts, settings, tmp_path / "again")
    assert again.joinpath(CONTENT).read_bytes() == first
    assert endpoint.stats()["requests"] == 0
    assert summary_in(again)["reused_answers"] == 60
    generate(artifacts, settings.model_copy(update={"resume": "never"}), tmp_path / "anew")
    assert endpoint.stats()["requests"] == 60


@pytest.mark.slow
def test_only_a_changed_document_is_asked_about(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    settings = sdg_settings(endpoint.base_url)
    generate(make_corpus(tmp_path / "in", 50), settings, tmp_path / "out")
    endpoint.script()
    generate(make_corpus(tmp_path / "in", 50, changed=[17]), settings, tmp_path / "out")
    assert endpoint.stats()["by_step"] == {"artifacts": 1, "pairs": 1, "evaluations": 1}


@pytest.mark.slow
def test_only_the_judge_is_asked_again_when_it_changes(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    artifacts, settings = make_corpus(tmp_path / "in", 20), sdg_settings(endpoint.base_url)
    generate(artifacts, settings, tmp_path / "out")
    endpoint.script()
    other = settings.model_copy(update={"quality_judge_model": "another/judge"})
    generate(artifacts, other, tmp_path / "out")
    assert endpoint.stats()["by_step"] == {"evaluations": 20}


@pytest.mark.slow
def test_killed_again_and_again_nothing_is_asked_twice(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    artifacts = make_corpus(tmp_path / "in", 60)
    dice = random.Random(7)

    def start(folder: Path) -> subprocess.Popen[bytes]:
        script = str(Path(__file__).with_name("run_generation.py"))
        return subprocess.Popen(
            [sys.executable, script, str(tmp_path / "in"), endpoint.base_url, str(folder)]
        )

    endpoint.script(latency=0.1)
    generate(artifacts, sdg_settings(endpoint.base_url), tmp_path / "calm" / "out")
    undisturbed = endpoint.stats()
    endpoint.script(latency=0.1)
    for _ in range(KILLS):
        victim, before = start(tmp_path / "killed" / "out"), endpoint.stats()["requests"]
        target = before + dice.randint(1, 16)
        while endpoint.stats()["requests"] < target and victim.poll() is None:
            time.sleep(0.02)
        time.sleep(dice.random() * 0.1)
        victim.kill()
        victim.wait()
    killed_at = endpoint.stats()["requests"]
    assert killed_at < 180
    assert start(tmp_path / "killed" / "out").wait() == 0
    disturbed = endpoint.stats()
    assert disturbed["distinct"] == undisturbed["distinct"] == undisturbed["requests"] == 180
    assert disturbed["requests"] <= 180 + KILLS * 8
    calm, killed = (tmp_path / name / "out" / CONTENT for name in ("calm", "killed"))
    assert calm.read_bytes() == killed.read_bytes()


@pytest.mark.slow
def test_a_budget_stops_cleanly_and_the_next_run_goes_on(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    artifacts = make_corpus(tmp_path / "in", 60)
    settings = sdg_settings(endpoint.base_url, max_calls=100)
    with pytest.raises(BudgetReachedError, match=r"max_calls = 100[\s\S]*Every answer is kept"):
        generate(artifacts, settings, tmp_path / "out")
    assert endpoint.stats()["requests"] == 100
    assert not (tmp_path / "out" / "generation_result.json").exists()
    folder = generate(artifacts, settings, tmp_path / "out")
    assert endpoint.stats()["requests"] == 180
    assert summary_in(folder)["pairs"] == 420


# ---- consent and keys --------------------------------------------------------------------------------------


def test_without_consent_nothing_is_sent_and_the_error_says_how(
    endpoint: ScriptedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.endpoints.is_loopback", lambda host: False)
    artifacts, settings = make_corpus(tmp_path / "in", 5), sdg_settings(endpoint.base_url)
    with pytest.raises(ConsentError, match=r"5 documents would be sent to 127\.0\.0\.1"):
        generate(artifacts, settings, tmp_path / "out")
    assert endpoint.stats()["requests"] == 0
    allowed = settings.model_copy(update={"approved_endpoints": ["127.0.0.1"]})
    generate(artifacts, allowed, tmp_path / "out")
    assert endpoint.stats()["requests"] == 15


@pytest.mark.parametrize("works", [True, False])
def test_the_key_is_in_no_file_and_no_error(
    endpoint: ScriptedEndpoint, tmp_path: Path, works: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    refusal = {"match": ".", "do": "status", "status": 401, "body": "no such key: {authorization}"}
    endpoint.script(*([] if works else [refusal]))
    artifacts, settings = make_corpus(tmp_path / "in", 5), sdg_settings(endpoint.base_url)
    said = ""
    try:
        generate(artifacts, settings, tmp_path / "out")
    except EndpointError as error:
        said = f"{error!r} {error.__cause__!r} {error.__context__!r}"
    assert works == (not said)
    assert KEY not in said + caplog.text
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


# ---- speed -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_endpoint_is_kept_busy(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    settings = sdg_settings(endpoint.base_url, max_parallel_requests_for_gen=8)
    generate(make_corpus(tmp_path / "warm", 1, segments=2), settings, tmp_path / "warm-out")
    endpoint.script(latency=LATENCY)
    artifacts = make_corpus(tmp_path / "in", 40, segments=3)
    started = time.monotonic()
    folder = generate(artifacts, settings, tmp_path / "out")
    ideal = summary_in(folder)["calls"] * LATENCY / 8
    assert summary_in(folder)["calls"] == 120
    assert ideal / (time.monotonic() - started) > 0.8


def test_progress_counts_documents(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    generate(
        make_corpus(tmp_path / "in", 12),
        sdg_settings(endpoint.base_url),
        tmp_path / "out",
        progress=lambda done, total, unit, **figures: seen.append((done, total, unit)),
    )
    assert seen == [(done, 12, "documents") for done in range(1, 13)]


@pytest.mark.slow
def test_an_interrupt_ends_the_run_at_once(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    make_corpus(tmp_path / "in", 60)
    endpoint.script({"match": "document 7 ", "do": "hang"})
    script = str(Path(__file__).with_name("run_generation.py"))
    command = [sys.executable, script, str(tmp_path / "in"), endpoint.base_url, str(tmp_path / "out" / "out")]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while endpoint.stats()["answered"] < 100:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode != 0
    assert b"KeyboardInterrupt" in said
    assert not (tmp_path / "out" / "out" / "generation_result.json").exists()
