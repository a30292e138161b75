"""The recipe's command lines, as its reference has them: only paths and models differ."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apt import install_packages
from tests.command.conftest import Workplace, copy_workplace, make_workplace
from tests.loopback import free_port
from tests.waiting import until

STAGES = ("sdg", "prep", "finetune", "eval", "export", "deploy")
MADE = {
    "sdg": "stage0_sdg/generation_result.json",
    "prep": "stage1_data_prep/eval_beir/queries.jsonl",
    "finetune": "stage2_finetune/checkpoints/LATEST/model/consolidated/model.safetensors",
    "eval": "stage3_eval/eval_results.json",
    "export": "stage4_export/onnx/model.onnx",
    "deploy": "stage5_deploy/server.json",
}
"""What each stage leaves, below the artifact root."""

SERVED = "sentence-transformers/all-MiniLM-L6-v2"
SERVER_FOLDER = Path(__file__).parents[2] / "assets_pkg" / "nim"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Workplace]:
    """A project that was made stage by stage."""
    workplace = make_workplace(tmp_path_factory.mktemp("recipe"), tiny_model, documents=16, root="output")
    for stage in STAGES:
        code, output = workplace.retune("embed", stage, "-c", "profile.yaml")
        assert code == 0, output
        assert (workplace.home / "output" / MADE[stage]).exists(), stage
    yield workplace
    workplace.retune("deploy", "--stop")


@pytest.fixture
def empty(tmp_path: Path) -> Workplace:
    """A folder with nothing in it, no key and no profile."""
    return Workplace(tmp_path, 0, extra={"RETUNE_PROFILE": "", "NVIDIA_API_KEY": "", "NGC_API_KEY": ""})


@pytest.mark.parametrize(
    "line",
    [
        "run -c default -d --from prep --to eval",
        *(f"{stage} -c default -d" for stage in ("sdg", "export", "deploy")),
    ],
)
def test_a_dry_run_in_an_empty_folder_shows_what_is_missing_and_writes_nothing(
    empty: Workplace, line: str
) -> None:
    code, output = empty.retune("embed", *line.split())
    assert code == 0, output
    assert "would run" in output
    assert ("not made yet" in output) == ("sdg" not in line), output
    assert list(empty.home.iterdir()) == []


def test_a_dry_run_fails_for_what_would_fail_for_sure(empty: Workplace) -> None:
    code, output = empty.retune("sdg", "-c", "default", "-d", "corpus_dir=/no/such/folder")
    assert code == 1
    assert "/no/such/folder" in output
    for line in (
        "export -d model_path=/no/model",
        "prep -d eval_data_path=/no/model",
        "finetune -d train_data_path=/no/model",
    ):
        code, output = empty.retune(*line.split(), "-c", "default")
        assert code == 1
        assert "/no/model: no such file or folder" in output
    assert empty.retune("prep", "-c", "default", "-d", "no_such_setting=1")[0] == 2


def test_the_recipes_group_has_its_commands(empty: Workplace) -> None:
    code, output = empty.retune("embed", "--help")
    assert code == 0
    assert all(f" {stage} " in output for stage in ("info", "run", *STAGES))
    assert empty.retune("embed", "info")[0] == 0
    assert empty.retune("embed", "info", "-c", "default") == empty.retune("info", "-c", "default")
    code, output = empty.retune("embed", "finetune", "-c", "default", "-d", "lr_decay_style=linear")
    assert code == 0
    assert "lr_scheduler=linear" in output


def test_the_cluster_lines_train_there(place: Workplace, tmp_path: Path) -> None:
    own = copy_workplace(place.home, tmp_path / "own")
    (own.home / "env.toml").write_text('[my-cluster]\nexecutor = "subprocess"\n', "utf-8")
    line = ("embed", "finetune", "-c", "profile.yaml")

    def trained() -> int:
        return len(list((own.home / "output/artifacts/checkpoint").iterdir()))

    changed = "learning_rate=3.0e-4"
    code, output = own.retune(*line, "--batch", "my-cluster", changed)
    assert code == 0, output
    own.await_ends_of_jobs()
    assert trained() == 2
    code, output = own.retune("jobs", "pick-up")
    assert code == 0, output
    assert "nothing is stale" in own.retune(*line, "--run", "my-cluster", changed)[1]


def test_the_smoke_tests_are_answered(place: Workplace) -> None:
    """The deployed server, and the server as the NIM's reference starts it."""
    curl(
        f"""curl -X POST http://localhost:{place.port}/v1/embeddings \\
  -H 'Content-Type: application/json' \\
  -d '{{"input": ["hello"], "model": "{SERVED}", "input_type": "query"}}'"""
    )
    install_packages({"curl": "curl"})
    port = free_port()
    exported = place.home / "output/stage4_export/onnx"
    program = Path(sys.executable).with_name("uvicorn")
    uvicorn = f"exec {program} server:app --host 0.0.0.0 --port ${{NIM_HTTP_API_PORT:-8000}}"
    server = subprocess.Popen(
        ["sh", "-c", uvicorn],
        cwd=SERVER_FOLDER,
        env={**place.environment, "NIM_HTTP_API_PORT": str(port), "NIM_CUSTOM_MODEL": str(exported)},
    )
    try:
        curl(
            f"curl --retry 60 --retry-delay 1 --retry-all-errors http://127.0.0.1:{port}/v1/health/ready", ""
        )
        curl(
            f"""curl -X POST http://127.0.0.1:{port}/v1/embeddings \\
  -H "content-type: application/json" \\
  -d '{{"model":"{SERVED}","input":["example passage text"],"input_type":"passage","truncate":"END"}}'"""
        )
    finally:
        server.terminate()
        server.wait(30)


def curl(line: str, expected: str = '"embedding":[') -> None:
    done = subprocess.run(
        ["sh", "-c", line.replace("curl ", "curl --silent --show-error --fail ", 1)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_the_nim_line_measures_the_server_and_leaves_the_comparison(place: Workplace) -> None:
    decided = place.retune("promote", "--show")
    code, output = place.retune("eval", "-c", "profile.yaml", "eval_nim=true", "eval_base=false")
    assert code == 0, output
    assert "every metric is within its tolerance" in output
    assert "not promoted" not in output
    results = json.loads((place.home / "output/stage3_eval/eval_results.json").read_text())
    assert {"base", "finetuned", "nim"} <= set(results)
    assert place.retune("promote", "--show") == decided


def test_nothing_to_measure_is_wrong_usage(place: Workplace) -> None:
    code, output = place.retune("eval", "-c", "profile.yaml", "eval_base=false", "eval_finetuned=false")
    assert code == 2
    assert "nothing would be measured" in output


def test_an_engine_is_planned_and_refused_where_it_cannot_be_built(place: Workplace) -> None:
    line = ("export", "-c", "profile.yaml", "export_to_trt=true")
    code, output = place.retune(*line, "-d")
    assert code == 0, output
    assert "tensorrt_engine" in output
    assert "trtexec --onnx=" in output
    served = place.link("stage4_export/onnx")
    code, output = place.retune(*line)
    assert code == 1
    assert "failed tensorrt_engine: a TensorRT engine is built on the GPU that runs it" in " ".join(
        output.split()
    )
    assert "Traceback" not in output
    assert place.link("stage4_export/onnx") == served
    assert "nothing is stale" in place.retune("export", "-c", "profile.yaml")[1]
    code, output = place.retune("run", "--from", "export", "--to", "deploy", "export_to_trt=true", "-d")
    assert "tensorrt_engine" in output


def test_keys_in_env_files_are_found_and_never_shown(empty: Workplace) -> None:
    file = empty.home / ".env"
    file.write_text("NVIDIA_API_KEY=a-key-of-the-file\n")
    file.chmod(0o600)
    place = Workplace(empty.home, 0, extra={"RETUNE_PROFILE": ""})
    environment = {name: value for name, value in place.environment.items() if name != "NVIDIA_API_KEY"}
    assert "NVIDIA_API_KEY" not in environment
    code, output = place.retune("doctor", "-c", "default")
    assert "ok NVIDIA_API_KEY set" in " ".join(output.split())
    assert "a-key-of-the-file" not in output
    file.chmod(0o644)
    code, output = place.retune("doctor", "-c", "default")
    assert "warning" in output
    assert "chmod 600" in output
    assert "problem NVIDIA_API_KEY not set" in " ".join(output.split())
    code, output = place.retune("ui")
    assert code == 1
    assert "chmod 600" in output


def test_a_model_of_any_trainer_is_exported_measured_and_served(
    place: Workplace, tiny_model: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_model.rglob("*")}
    own = Workplace(tmp_path, place.port, extra={"RETUNE_PROFILE": ""})
    line = ("-c", "laptop", f"host_port={free_port()}", f"base_model={tiny_model}")
    code, output = own.retune("export", f"model_path={tiny_model}", *line)
    assert code == 0, output
    assert (tmp_path / "output/embed/stage4_export/onnx/model.onnx").exists()
    code, output = own.retune("promote", "--show", *line)
    assert f"importedfrom{tiny_model}" in "".join(output.split())
    code, output = own.retune("deploy", f"model_dir={tiny_model}", *line)
    assert code == 0, output
    beir = place.home / "output/stage1_data_prep/eval_beir"
    measured = (f"finetuned_model_path={tiny_model}", f"eval_data_path={beir}", *line)
    code, output = own.retune("eval", *measured)
    assert code == 0, output
    results = json.loads((tmp_path / "output/embed/stage3_eval/eval_results.json").read_text())
    assert results["base"] == results["finetuned"]
    assert "nothing is stale" in own.retune("eval", *measured)[1]
    assert {path: path.stat().st_mtime_ns for path in tiny_model.rglob("*")} == before
    assert own.retune("deploy", "--stop", *line)[0] == 0


def test_an_exported_model_is_served_without_its_checkpoint(place: Workplace, tmp_path: Path) -> None:
    own = Workplace(tmp_path, place.port + 2, extra={"RETUNE_PROFILE": ""})
    exported = place.home / "output" / place.link("stage4_export/onnx")
    line = ("deploy", "-c", "laptop", f"host_port={own.port}")
    code, output = own.retune(*line, f"model_dir={exported}")
    assert code == 0, output
    served = (tmp_path / "output/embed/stage4_export/onnx/model.onnx").read_bytes()
    assert served == (exported / "model.onnx").read_bytes()
    assert own.retune(*line, "--stop")[0] == 0


def test_training_starts_from_a_mined_file_and_an_eval_set(
    place: Workplace, tiny_model: Path, tmp_path: Path
) -> None:
    own = Workplace(tmp_path, place.port, extra={"RETUNE_PROFILE": ""})
    prepared = place.home / "output/stage1_data_prep"
    given = (
        f"train_data_path={prepared / 'train_mined.automodel_unrolled.json'}",
        f"eval_data_path={prepared / 'eval_beir'}",
    )
    code, output = own.retune("finetune", "-c", "laptop", f"base_model={tiny_model}", *given)
    assert code == 0, output
    made = tmp_path / "output/embed/stage2_finetune/checkpoints/LATEST/model/consolidated"
    assert (made / "model.safetensors").exists()


def test_a_server_in_the_foreground_ends_with_the_command(place: Workplace) -> None:
    command = place.start_forked("deploy", "-c", "profile.yaml", "detach=false")
    until(lambda: "Ctrl-C stops the server" in command.printed())
    os.kill(command.pid, signal.SIGINT)
    code, output = command.wait()
    assert code == 0, output
    assert "stopped the server" in output
    assert place.retune("deploy", "-c", "profile.yaml")[0] == 0


def test_passages_follow_their_settings_and_the_limit_is_told(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(3):
        lines = (
            f"The pump of plant {number} is checked in case {case} of the handbook." for case in range(60)
        )
        (folder / f"{number}.md").write_text(
            f"# How the pump of plant {number} is checked in every case\n\n" + " ".join(lines)
        )
    own = Workplace(tmp_path, 0, extra={"RETUNE_PROFILE": ""})
    line = (
        "sdg",
        "-c",
        "laptop",
        "corpus_dir=documents",
        f"base_model={tiny_model}",
        "sentences_per_chunk={}",
    )
    made = {}
    for sentences, limit in ((20, "512"), (60, "512"), (60, "null")):
        settings = [each.format(sentences) for each in line]
        code, output = own.retune(*settings, f"max_chunk_tokens={limit}", "passage_max_length=128")
        assert code == 0, output
        made[sentences, limit] = sorted((tmp_path / "output/embed/artifacts/passages").iterdir()), output
    assert "ended by the limit" not in made[20, "512"][1]
    told = " ".join(made[20, "512"][1].split())
    assert "may have 512 tokens, and the model reads 128 of them: passage_max_length=512" in told
    assert "ended by the limit of 512 tokens, before 60 sentences" in " ".join(made[60, "512"][1].split())
    assert "the first is passage 1 of 0.md" in " ".join(made[60, "512"][1].split())
    assert "ended by the limit of 1,600 characters" in " ".join(made[60, "null"][1].split())
    assert len(made[60, "null"][0]) == 3


def test_what_would_be_refused_later_is_said_before_the_first_download(empty: Workplace) -> None:
    code, output = empty.retune("run", "-c", "default", "base_model=nobody/no-such-model")
    assert code == 1
    words = " ".join(output.split())
    assert "nothing was fetched" in words
    assert "sdg.approved_endpoints=integrate.api.nvidia.com" in words
    assert "NVIDIA_API_KEY is not set" in words
    assert "Traceback" not in output
    assert not (empty.home / "output").exists()
    code, output = empty.retune("run", "-c", "default", "--to", "deploy", "base_model=nobody/no-such-model")
    assert "NGC_API_KEY is not set" in " ".join(output.split())


def test_the_other_names_of_the_reference_are_taken(place: Workplace, empty: Workplace) -> None:
    overrides = {
        "sdg": "corpus_dir=documents num_pairs=3 sentences_per_chunk=4 file_extensions=.md,.txt preview=true "
        "max_parallel_requests_for_gen=2",
        "prep": "quality_threshold=6 hard_negatives_to_mine=6 mining_batch_size=16",
        "finetune": "num_epochs=2 learning_rate=2e-5 global_batch_size=32 local_batch_size=8 train_n_passages=4",
        "eval": "k_values=1,5,10 eval_base=true eval_finetuned=true eval_nim=false",
        "export": "attn_implementation=eager trt_min_seq_len=3 trt_opt_seq_len=64 trt_max_seq_len=128",
        "deploy": "use_onnx=true host_port=8123 container_name=mine nim_image=x/nim:1.10.1 detach=true gpus=1",
    }
    for stage, given in overrides.items():
        code, output = place.retune("embed", stage, "-c", "profile.yaml", "-d", *given.split())
        assert code == 0, output
    code, output = empty.retune("deploy", "-c", "default", "-d", "use_onnx=false")
    assert "NIM_CUSTOM_MODEL" in output
    assert "stage4_export/tensorrt" in output
