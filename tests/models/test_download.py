"""Downloads from a hub on this machine: the plan, the space it needs, resumption after a broken connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.models.download import DownloadError, download, plan_download
from resources.models.entry import ModelEntry
from resources.models.files import digest_model
from resources.models.locations import find_model
from tests.models.fake_hub import COMMIT, Hub, running


@pytest.fixture
def entry(entries: dict[str, ModelEntry]) -> ModelEntry:
    return entries["clip"].model_copy(
        update={"hub_id": "some/clip", "license": "cc-by-nc-4.0", "commercial_use": False}
    )


@pytest.fixture
def hub(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running(Hub(zoo / "clip", "some/clip")) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield hub


def test_the_plan_has_size_room_and_licence_and_writes_nothing(
    hub: Hub, entry: ModelEntry, tmp_path: Path
) -> None:
    plan = plan_download("clip", entry, tmp_path)
    expected = sum(path.stat().st_size for path in hub.folder.iterdir() if path.is_file())
    assert plan.total_bytes == plan.needed_bytes == expected
    assert (plan.revision, plan.folder) == (COMMIT, tmp_path / "clip")
    assert "licence: cc-by-nc-4.0 (NO commercial use)" in plan.describe()
    assert list(tmp_path.iterdir()) == []
    assert hub.served == []


def test_an_onnx_model_is_its_graph_without_other_formats(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = tmp_path / "remote"
    for name in (
        "config.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors", "pytorch_model.bin",
        "onnx/model.onnx", "onnx/model.onnx_data", "onnx/model_fp16.onnx", "openvino/model.bin",
    ):  # fmt: skip
        (remote / name).parent.mkdir(parents=True, exist_ok=True)
        (remote / name).write_text("{}")
    monkeypatch.setattr(hub, "folder", remote)
    plan = plan_download("mine", ModelEntry(adapter="onnx", hub_id="some/clip"), tmp_path)
    assert {file.name for file in plan.files} == {
        "config.json", "tokenizer.json", "1_Pooling/config.json", "onnx/model.onnx", "onnx/model.onnx_data",
    }  # fmt: skip


def test_a_download_is_whole_and_found(hub: Hub, entry: ModelEntry, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    plan = plan_download("clip", entry, tmp_path)
    digest = download(plan, lambda done, total, unit, **_: reported.append((done, total)))
    assert digest == digest_model(hub.folder)
    assert find_model("clip", entry, tmp_path).folder == tmp_path / "clip"
    assert reported[-1][0] == reported[-1][1]
    again = plan_download("clip", entry, tmp_path)
    assert again.needed_bytes == 0
    hub.served.clear()
    download(again)
    assert hub.served == []


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    hub: Hub, entry: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.cut_after = 100_000
    assert download(plan_download("clip", entry, tmp_path)) == digest_model(hub.folder)
    assert any(asked == "model.safetensors from 100000" for asked in hub.ranges)


def test_complete_files_are_not_fetched_again_after_a_failure(
    hub: Hub, entry: ModelEntry, tmp_path: Path
) -> None:
    hub.broken = "tokenizer.json"
    with pytest.raises(DownloadError, match="Complete files are kept: run the same command again"):
        download(plan_download("clip", entry, tmp_path))
    hub.broken = None
    hub.served.clear()
    assert download(plan_download("clip", entry, tmp_path)) == digest_model(hub.folder)
    assert set(hub.served) == {"tokenizer.json", "tokenizer_config.json"}


def test_too_little_room_is_said_before_anything_is_fetched(
    hub: Hub, entry: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.models.download._free_bytes", lambda folder: 500_000_100)
    plan = plan_download("clip", entry, tmp_path)
    assert not plan.fits
    with pytest.raises(DownloadError, match=r"clip needs 0\.5 GB and 0\.5 GB are free"):
        download(plan)
    assert hub.served == []


def test_a_licence_to_accept_is_said(hub: Hub, entry: ModelEntry, tmp_path: Path) -> None:
    hub.gated = True
    with pytest.raises(DownloadError, match="asks for its licence to be accepted: open https://huggingface"):
        plan_download("clip", entry, tmp_path)


def test_an_unreachable_hub_is_said(
    entry: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="some/clip cannot be fetched"):
        plan_download("clip", entry, tmp_path)


def test_a_service_has_nothing_to_download(tmp_path: Path) -> None:
    service = ModelEntry.model_validate({"provider_type": "local", "base_url": "http://localhost:1"})
    with pytest.raises(DownloadError, match="is a service"):
        plan_download("x", service, tmp_path)


def test_pickled_weights_are_left_out_only_beside_safetensors_of_the_same_module(
    hub: Hub, entry: ModelEntry, tmp_path: Path
) -> None:
    hub.folder = tmp_path / "hub"
    for name in ("model.safetensors", "pytorch_model.bin", "2_Dense/pytorch_model.bin"):
        (hub.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (hub.folder / name).write_bytes(b"x")
    plan = plan_download("clip", entry, tmp_path / "models")
    assert {file.name for file in plan.files} == {"model.safetensors", "2_Dense/pytorch_model.bin"}
