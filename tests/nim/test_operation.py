"""What an operator sees of a server: log, ids of requests, health, metrics, traces, its documentation."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from assets_pkg.nim import observability
from assets_pkg.nim.loading import load_export
from assets_pkg.nim.manifest import FolderError, read_manifest
from assets_pkg.nim.observability import Access, JsonFormatter, LogFile, Metrics
from assets_pkg.nim.scheduler import MAX_REPLACED, Scheduler
from assets_pkg.nim.settings import ServerSettings
from tests.nim.collector import collecting
from tests.nim.inprocess import Local

NIM = Path(observability.__file__).parent


@pytest.fixture(scope="module")
def local(tiny_export: Path) -> Iterator[Local]:
    with closing(Local(tiny_export)) as made:
        yield made


def lines_of(caplog: pytest.LogCaptureFixture) -> list[Access]:
    return [record.msg for record in caplog.records if isinstance(record.msg, Access)]


def test_one_line_for_each_request_with_the_clients_id(
    local: Local, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "assets_pkg.nim.access")
    answer = local.ask(
        "POST", "/v1/embeddings", json={"input": ["a", "b"]}, headers={"X-Request-Id": "order-7/3"}
    )
    assert answer.headers["x-request-id"] == "order-7/3"
    (line,) = lines_of(caplog)
    assert (line.request, line.status, line.request_id) == ("POST /v1/embeddings", 200, "order-7/3")
    assert line.counts == {"texts": 2, "tokens": answer.json()["usage"]["total_tokens"]}
    assert 0 < line.seconds < 60
    pattern = r'127\.0\.0\.1 "POST /v1/embeddings" 200 [\d.]+ ms, 2 texts, \d+ tokens, request order-7/3'
    assert re.fullmatch(pattern, str(line))


@pytest.mark.parametrize("given", [None, "", "a" * 129, "two words", "ünlauter".encode()])
def test_a_request_without_a_usable_id_gets_one(local: Local, given: Any) -> None:
    headers = {} if given is None else {"X-Request-Id": given}
    answers = [local.ask("GET", "/v1/models", headers=headers) for _ in range(2)]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


def test_errors_and_unknown_paths_are_logged_and_probes_are_not(
    local: Local, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "assets_pkg.nim.access")
    local.ask("GET", "/v1/health/ready")
    local.ask("GET", "/v1/metrics")
    local.embed(input="")
    local.ask("GET", "/no%0Aline")
    assert [(line.request, line.status) for line in lines_of(caplog)] == [
        ("POST /v1/embeddings", 400),
        ("GET /no%0Aline", 404),
    ]


def test_the_access_log_can_be_json_or_off(tiny_export: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "assets_pkg.nim.access")
    with closing(Local(tiny_export, access_log=False)) as silent:
        silent.embed(input="a")
    assert lines_of(caplog) == []
    record = logging.LogRecord(
        "n", logging.INFO, "", 0, Access("::1", "GET /x", 404, 0.0025, "i", {"texts": 1}), (), None
    )
    entry = json.loads(JsonFormatter().format(record))
    del entry["time"]
    assert entry == {
        "level": "INFO", "logger": "n", "message": "GET /x 404", "client": "::1", "request": "GET /x",
        "status": 404, "seconds": 0.0025, "request_id": "i", "texts": 1,
    }  # fmt: skip


def test_a_thread_that_ends_is_replaced_and_its_requests_are_answered() -> None:
    faults = [SystemExit("injected")]

    def run(rows: Any) -> Any:
        if faults:
            raise faults.pop()
        return np.ones((len(rows), 2), np.float32)

    metrics = Metrics()
    scheduler = _scheduler(run, metrics)
    row = [np.array([1, 2])]
    with pytest.raises(RuntimeError, match="inference thread ended"):
        scheduler.submit(row).vectors.result(30)
    np.testing.assert_array_equal(scheduler.submit(row).vectors.result(30), [[1, 1]])
    assert scheduler.healthy
    assert b"retune_inference_threads_replaced_total 1.0" in metrics.text()
    scheduler.close()


def test_threads_that_only_end_are_not_replaced_for_ever(local: Local) -> None:
    def run(rows: Any) -> Any:
        raise SystemExit("injected")

    scheduler = _scheduler(run, Metrics())
    for _ in range(MAX_REPLACED + 1):
        with pytest.raises(RuntimeError):
            scheduler.submit([np.array([1])]).vectors.result(30)
    for thread in threading.enumerate():
        if thread.name == "infer-test":
            thread.join(30)
    while scheduler.healthy:
        pass
    kept, local.service._scheduler = local.service._scheduler, scheduler
    try:
        for path in ("live", "ready"):
            answer = local.ask("GET", f"/v1/health/{path}")
            assert (answer.status_code, answer.json()[path]) == (503, False)
    finally:
        local.service._scheduler = kept
    assert local.ask("GET", "/v1/health/live").status_code == 200


def _scheduler(run: Callable[[Any], Any], metrics: Metrics) -> Scheduler:
    return Scheduler(run, 2, workers=1, batch_tokens=16, max_tokens=64, max_wait_s=60, metrics=metrics)


def test_the_metrics_of_the_dashboard_exist(local: Local) -> None:
    local.embed(input="a")
    text = local.ask("GET", "/v1/metrics").text
    assert "process_resident_memory_bytes" in text
    known = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    board = json.loads((NIM / "docker" / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(queries) >= 8
    asked = {name for query in queries for name in re.findall(r"\b(?:retune|process)_[a-z_]+", query)}
    assert asked - known == set()


def test_a_log_file_is_appended_to_and_rotated_by_two_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observability, "LOG_FILE_BYTES", 200)
    monkeypatch.setattr(observability.os, "dup2", lambda *_: None)  # this process keeps its own output
    path = tmp_path / "server.log"
    path.write_text("an earlier line\n")
    old, new = LogFile(path), LogFile(path)
    written = [f"{name} {number} {'.' * 30}" for number in range(20) for name in ("old", "new")]
    for line in written:
        handler = old if line.startswith("old") else new
        handler.emit(logging.LogRecord("n", logging.INFO, "", 0, line, (), None))
    old.close()
    new.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["server.log", *(f"server.log.{n}" for n in range(1, 5))]
    kept = "".join(file.read_text() for file in reversed(files)).splitlines()
    assert kept == written[-len(kept) :]
    assert len(kept) >= 4 * 4
    assert all(file.stat().st_size <= 250 for file in files)


def test_the_documentation_has_an_example_that_succeeds_and_loads_nothing_from_elsewhere(
    local: Local, tiny_export: Path
) -> None:
    described = local.ask("GET", "/openapi.json").json()
    operation = described["paths"]["/v1/embeddings"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    assert len(local.embed(**example).json()["data"]) == 1
    page = local.ask("GET", "/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) >= 2
    for address in loaded:
        assert address.startswith("/")
        assert local.ask("GET", address).status_code == 200
    assert "security" not in operation
    with closing(Local(tiny_export, api_key="k")) as locked:
        locked_operation = locked.ask("GET", "/openapi.json").json()["paths"]["/v1/embeddings"]["post"]
        assert locked_operation["security"] == [{"HTTPBearer": []}]


def test_traces_reach_a_collector_as_parts_of_the_clients_trace(
    tiny_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with collecting(monkeypatch) as collected, closing(Local(tiny_export, tracing=True)) as traced:
        headers = {"traceparent": f"00-{trace}-{parent}-01"}
        traced.ask("POST", "/v1/embeddings", json={"input": ["a", "b"]}, headers=headers)
    attributes = [each for resource in collected.resources() for each in resource.resource.attributes]
    assert {each.value.string_value for each in attributes if each.key == "service.name"} == {
        "retune-embedding"
    }
    spans = collected.spans()
    assert set(spans) == {"POST /v1/embeddings", "tokenize", "embed"}
    whole = spans["POST /v1/embeddings"]
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (trace, parent)
    for step in ("tokenize", "embed"):
        assert spans[step].parent_span_id == whole.span_id
    numbers = {each.key: each.value.int_value for each in whole.attributes}
    assert (numbers["http.response.status_code"], numbers["retune.texts"]) == (200, 2)


def test_what_is_served_is_what_was_exported(tiny_export: Path, tmp_path: Path, local: Local) -> None:
    graph = (tiny_export / "model.onnx").read_bytes()
    said = local.ask("GET", "/v1/metadata").json()["fileDigests"]
    assert said["model.onnx"] == "sha256:" + hashlib.sha256(graph).hexdigest()
    assert set(said) == {"model.onnx", "tokenizer.json"}
    copy = tmp_path / "model"
    shutil.copytree(tiny_export, copy)
    weights = next(
        each.raw_data
        for each in onnx.load_model_from_string(graph).graph.initializer
        if len(each.raw_data) > 4000
    )
    numbers = np.frombuffer(weights, np.float32)[::-1]
    (copy / "model.onnx").write_bytes(graph.replace(weights, numbers.tobytes()))
    with pytest.raises(FolderError, match=r"model\.onnx is not the file that was exported"):
        load_export(copy)
    manifest = read_manifest(copy)
    shutil.copy(tiny_export / "model.onnx", copy)
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    with pytest.raises(FolderError, match=r"tokenizer\.json is not the file"):
        load_export(copy)
    manifest.model_copy(update={"sha256": {}}).write(copy)  # as earlier versions exported
    assert load_export(copy).manifest.sha256 == {}


def test_access_and_traces_are_settings() -> None:
    settings = ServerSettings(model_dir=Path())
    assert (settings.access_log, settings.tracing, settings.log_file) == (True, False, None)
