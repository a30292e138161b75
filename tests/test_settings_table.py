"""Settings where people look for them: in ``retune info``, in the help of a stage, and when a shell completes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from assets_pkg.cli.main import app
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.stages import STAGES


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RETUNE_PROFILE", raising=False)


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_info_as_json_is_the_profile() -> None:
    profile = load_profile("laptop", ["gate.min_delta=0.5"])
    assert json.loads(printed("info", "--json", "min_delta=0.5")) == profile.model_dump(mode="json")


def test_info_is_a_line_for_each_setting() -> None:
    rows = [line.split() for line in printed("info").splitlines() if line]
    values = {row[0]: row[1] for row in rows if len(row) > 1}
    for section, settings in load_profile("laptop").model_dump(mode="json").items():
        if isinstance(settings, dict):
            assert {f"{section}.{name}" for name in settings} <= set(values)
    assert (values["gate.metric"], values["finetune.num_epochs"]) == ("NDCG@10", "1")


@pytest.mark.parametrize(
    ("stage", "sections"),
    [("eval", ("eval", "gate")), ("sdg", ("corpus", "passages", "model", "sdg")), ("deploy", ("deploy",))],
)
def test_the_help_of_a_stage_lists_its_settings(stage: str, sections: tuple[str, ...]) -> None:
    text = printed(stage, "--help")
    listed = {line.split()[0] for line in text.splitlines() if line.startswith(sections)}
    profile = load_profile("laptop")
    assert listed == {f"{name}.{key}" for name in sections for key in getattr(profile, name).model_dump()}


def test_help_works_in_a_project_that_cannot_be_read() -> None:
    Path("retune.yaml").write_text("finetune: {no_such: 1}")
    assert "finetune.num_epochs" in printed("finetune", "--help")


@pytest.mark.parametrize("option", ["first", "last"])
def test_stages_are_completed(option: str) -> None:
    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    (parameter,) = [each for each in run.params if each.name == option]
    offered = [each.value for each in parameter.shell_complete(run.make_context("run", []), "")]
    assert offered == list(STAGES)
    narrowed = [each.value for each in parameter.shell_complete(run.make_context("run", []), "re")]
    assert narrowed == ["reindex"]
