"""The stage sdg by command: forecast, consent, preview, a chat model on loopback, the user's own pairs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chat_model.scripted_endpoint import ScriptedEndpoint
from tests.command.conftest import Workplace, make_workplace

KEY = "nvapi-this-key-must-never-be-seen"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ScriptedEndpoint]:
    with ScriptedEndpoint() as running:
        yield running


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("sdg"), tiny_model, documents=12)


@pytest.fixture(autouse=True)
def with_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", KEY)


def llm(endpoint: ScriptedEndpoint) -> list[str]:
    return ["generator=llm", f"base_url={endpoint.base_url}", "similarity_threshold=1.0"]


def test_the_dry_run_forecasts_calls_tokens_and_time_without_key_or_network(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_API_KEY")
    code, output = workplace.retune(
        "sdg", "-c", "default", "-d", f"corpus_dir={workplace.home / 'documents'}"
    )
    assert code == 0, output
    assert "documents  12" in output
    assert "calls      36" in output
    assert "1 min at 40 requests/min" in output
    assert "NOT ALLOWED YET" in output


def test_without_consent_nothing_is_sent(workplace: Workplace) -> None:
    code, output = workplace.retune("sdg", "generator=llm", "base_url=http://192.0.2.1:9/v1")
    assert code == 1
    assert "12 documents would be sent to 192.0.2.1" in output
    assert "approved_endpoints" in output


def test_preview_shows_pairs_and_publishes_nothing(workplace: Workplace, endpoint: ScriptedEndpoint) -> None:
    endpoint.script()
    code, output = workplace.retune("sdg", *llm(endpoint), "preview=true")
    assert code == 0, output
    assert "nothing was published" in output
    assert output.count("?") >= 3
    assert not (workplace.home / "output/stage0_sdg").exists()


def test_pairs_of_a_chat_model_are_complete_and_a_second_run_asks_nothing(
    workplace: Workplace, endpoint: ScriptedEndpoint
) -> None:
    endpoint.script()
    code, output = workplace.retune("sdg", *llm(endpoint))
    assert code == 0, output
    records = [json.loads(line) for line in (workplace.home / "output/stage0_sdg/qa_records.jsonl").open()]
    assert len(records) == 12
    assert all(record["deduplicated_qa_pairs"] for record in records)
    asked = endpoint.stats()["requests"]
    code, output = workplace.retune("sdg", *llm(endpoint))
    assert "nothing is stale" in output
    assert endpoint.stats()["requests"] == asked


def test_the_key_is_in_no_file_and_no_output(workplace: Workplace, endpoint: ScriptedEndpoint) -> None:
    endpoint.script({"match": ".", "do": "status", "status": 401, "body": "bad key {authorization}"})
    code, output = workplace.retune("sdg", *llm(endpoint), "num_pairs=3")
    assert code == 1
    assert KEY not in output
    for path in workplace.home.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_own_pairs_begin_the_graph_at_prep(tmp_path: Path, tiny_model: Path) -> None:
    workplace = make_workplace(tmp_path / "workplace", tiny_model, documents=1)
    rows = [
        {"question": f"what happens in case {n}?", "positive": f"In case {n} the valve number {n} is opened."}
        for n in range(40)
    ]
    pairs = workplace.home / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps(row) for row in rows))
    code, output = workplace.retune("prep", f"sdg_input_path={pairs}")
    assert code == 0, output
    training = json.loads((workplace.home / "output/stage1_data_prep/train.json").read_text())
    assert len(training["data"]) > 20
    pairs.write_text(pairs.read_text() + "\n" + json.dumps({"question": "one more?", "positive": "Yes."}))
    code, output = workplace.retune("prep", "-d", f"sdg_input_path={pairs}")
    assert "pairs.jsonl changed" in " ".join(output.split())
