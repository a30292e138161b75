"""The command from end to end: run, run again, search, errors and exit codes, kills and interrupts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest

from tests.command.conftest import Workplace, copy_workplace, make_workplace

LINKS = (
    "stage1_data_prep/train.json",
    "stage1_data_prep/val.json",
    "stage1_data_prep/corpus",
    "stage1_data_prep/eval_beir",
    "stage1_data_prep/train_mined.automodel_unrolled.json",
    "stage2_finetune/checkpoints/LATEST",
    "stage3_eval/eval_results.json",
    "stage4_export/onnx",
    "promoted_model",
    "reindex/index",
)


def test_everything_lies_under_the_recipes_names(done: Workplace) -> None:
    for name in LINKS:
        assert (done.home / "output" / name).exists(), name
    results = json.loads((done.home / "output/stage3_eval/eval_results.json").read_text())
    assert {"base", "finetuned"} <= set(results)
    assert (
        done.home / "output/stage2_finetune/checkpoints/LATEST/model/consolidated/model.safetensors"
    ).exists()


def test_a_second_run_finds_nothing_stale(done: Workplace) -> None:
    code, output = done.retune("run", "--to", "reindex")
    assert code == 0
    assert "nothing is stale" in output


def test_the_dry_run_says_what_would_run_and_why_and_changes_nothing(done: Workplace) -> None:
    code, output = done.retune("run", "--to", "eval", "-d", "finetune.temperature=0.06")
    assert code == 0
    assert "temperature 0.05 -> 0.06" in " ".join(output.split())
    assert "3 of 9 would run" in output or "3 of 10 would run" in output
    code, output = done.retune("run", "--to", "eval", "-d")
    assert "nothing is stale" in output
    code, output = done.retune("run", "--to", "eval", "-d", "--force", "prep")
    assert (code, output.count("asked for by --force")) == (0, 3)
    code, output = done.retune("run", "--from", "finetune", "--force", "prep")
    assert (code, "--force: eval_set, training_set" in output) == (2, True)


def test_search_finds_the_passage_and_names_its_file(done: Workplace) -> None:
    code, output = done.retune("search", "How the kiln handles glaze and firing", "--json", "-k", "3")
    assert code == 0
    hits = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert len(hits) == 3
    assert hits[0]["doc_id"].endswith(".md")
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert (done.home / "documents" / hits[0]["doc_id"]).exists()


def test_the_server_serves_the_promoted_model(done: Workplace) -> None:
    from sentence_transformers import SentenceTransformer

    base = f"http://127.0.0.1:{done.port}"
    assert httpx2.get(f"{base}/v1/health/ready").status_code == 200
    body = {
        "input": ["the pump is checked"],
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "input_type": "query",
    }
    served = np.array(httpx2.post(f"{base}/v1/embeddings", json=body).json()["data"][0]["embedding"])
    model = SentenceTransformer(str(done.home / "output/promoted_model/model/consolidated"), device="cpu")
    assert served @ model.encode("the pump is checked") == pytest.approx(1, abs=1e-5)


def test_the_plan_is_printed_before_training(done: Workplace) -> None:
    words = " ".join(done.printed.split())
    assert re.search(
        r"checkpoint \(\d+ of \d+\) plan: \d+ examples, 1 epoch\(s\) of \d+ steps? in batches of \d+", words
    )
    assert "optimizer steps: more documents" in words


def test_the_measurement_and_every_decision_are_shown(done: Workplace) -> None:
    code, output = done.retune("eval")
    assert code == 0
    assert "NDCG@10" in output
    report = done.home / "output/stage3_eval/report.html"
    assert str(report.resolve()) in "".join(output.split())
    page = report.read_text("utf-8")
    assert "data:image/png;base64," in page
    assert "How it was trained" in page
    assert "validation nDCG@10" in page or "not trained, because" in page
    code, output = done.retune("promote", "--show")
    assert code == 0
    words = " ".join(output.split())
    assert "promoted: NDCG@10" in words
    assert done.link("promoted_model").rpartition("/")[2] in "".join(output.split())
    assert done.retune("promote")[0] == 2
    assert done.retune("promote", "feedfacefeedface")[0] == 2
    code, output = done.retune("rollback")
    assert code == 1
    assert "no earlier promotion" in output


def test_deploy_shows_the_servers_command_and_its_log(done: Workplace) -> None:
    code, output = done.retune("deploy", "-d")
    assert code == 0
    command = " ".join(output.split())
    named = "NIM_SERVED_MODEL_NAME=sentence-transformers/all-MiniLM-L6-v2"
    assert f"NIM_MAX_CLIENT_BATCH_SIZE=2048 {named} {sys.executable} -m assets_pkg.nim --model-dir" in command
    assert f"--host 127.0.0.1 --port {done.port}" in command
    code, output = done.retune("deploy", "-d", "backend=docker")
    assert "docker run --detach --name nemotron-embed-nim --restart unless-stopped" in " ".join(
        output.split()
    )
    code, output = done.retune("deploy", "--logs")
    assert code == 0
    assert "listening on" in output


def test_wrong_usage_exits_with_2_and_failure_with_1(done: Workplace) -> None:
    assert done.retune("run", "--to", "nowhere")[0] == 2
    assert done.retune("run", "no_such_key=1")[0] == 2
    for options in ((), ("-d",)):
        code, output = done.retune("run", *options, "corpus_dir=/does/not/exist")
        assert code == 1
        assert "/does/not/exist" in output
        assert "no such folder" in output


def test_too_few_documents_are_an_error_that_says_so(fresh: Workplace) -> None:
    for path in sorted((fresh.home / "documents").iterdir())[1:]:
        path.unlink()
    code, output = fresh.retune("run", "--to", "prep")
    assert code == 1
    assert "documents" in output
    assert "Traceback" not in output


def test_a_port_in_use_is_named_and_nothing_is_left_running(done: Workplace, tmp_path: Path) -> None:
    other = copy_workplace(done.home, tmp_path / "other")
    shutil.rmtree(other.home / "output/stage5_deploy")  # the copy has no server
    code, output = other.retune("run", "--to", "deploy")
    assert code == 1
    assert f"port {done.port} on 127.0.0.1 is in use" in output
    assert not _servers_of(other.home)


def test_interrupted_and_killed_the_same_command_completes_to_the_same_versions(
    done: Workplace, fresh: Workplace
) -> None:
    run = ("run", "--to", "reindex")
    command = fresh.start_forked(*run)
    command.await_step("checkpoint")
    children = psutil.Process(command.pid).children(recursive=True)
    os.kill(command.pid, signal.SIGINT)
    code, output = command.wait()
    assert code == 130, output
    last = output.strip().splitlines()[-1]
    assert last == "stopped in checkpoint; finished steps are kept: the same command continues from there"
    assert "Traceback" not in output
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert not (fresh.home / "output/stage2_finetune/checkpoints/LATEST").exists()

    continued = "checkpoint"
    for moment in ("checkpoint", "embed_and_index", "running_nim"):
        command = fresh.start_forked(*run)
        command.await_step(moment)
        assert re.findall(r"^(\w+) \(1 of", command.kill(), re.MULTILINE) == [continued]
        continued = moment
    code, output = fresh.retune(*run)
    assert code == 0, output
    assert "had been killed" in output
    for name in LINKS:
        assert fresh.link(name) == done.link(name)


def _servers_of(home: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "assets_pkg.nim" in command and str(home) in command:
            found.append(process.pid)
    return found


def test_another_artifact_root_in_the_same_folder_gets_all_of_its_own(
    tmp_path: Path, tiny_model: Path
) -> None:
    workplace = make_workplace(tmp_path / "project", tiny_model, documents=8)
    code, output = workplace.retune("run", "--to", "sdg")
    assert code == 0, output
    code, output = workplace.retune("run", "--to", "sdg", "artifact_root=./other")
    assert code == 0, output
    made = {path.name for path in (workplace.home / "other" / "artifacts").iterdir() if any(path.iterdir())}
    assert made >= {"raw_corpus", "passages", "synthetic_qa"}
    code, output = workplace.retune("run", "--to", "sdg")
    assert code == 0, output
    assert "nothing is stale" in output or "0 assets made" in output, output  # recorded for this root again
    code, output = workplace.retune("run", "--to", "sdg", "-d")
    assert (code, "nothing is stale" in output) == (0, True), output
