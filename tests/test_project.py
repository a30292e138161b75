"""A project is found from every folder below it, and what a person types means what it means where they type it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from assets_pkg.config import project
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.project import (
    ProjectError,
    enter_project,
    make_project,
    profile_name,
    typed_override,
    typed_path,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with documents in it, and a folder below that one works in."""
    made = tmp_path / "mine"
    documents = made / "my docs: #1"
    documents.mkdir(parents=True)
    make_project(made, documents, "laptop", 8017)
    (made / "below/deep").mkdir(parents=True)
    monkeypatch.chdir(made / "below/deep")
    monkeypatch.delenv("RETUNE_PROFILE", raising=False)
    monkeypatch.setattr(project, "_started_in", Path.cwd())
    return made


def test_the_settings_are_read_back(folder: Path) -> None:
    enter_project()
    assert Path.cwd() == folder
    assert profile_name() == "retune.yaml"
    profile = load_profile(profile_name())
    assert profile.corpus.corpus_dir == "./my docs: #1"
    assert (profile.artifact_root, profile.deploy.host_port) == ("./output", 8017)
    assert profile.finetune == load_profile("laptop").finetune


def test_every_commented_setting_exists(folder: Path) -> None:
    text = (folder / "retune.yaml").read_text("utf-8")
    values = re.sub(r"^# (?=[a-z_]+:$|  [a-z_]+: )", "", text, flags=re.MULTILINE)
    assert values.count("\n#") == 1
    (folder / "all.yaml").write_text(values, "utf-8")
    profile = load_profile(str(folder / "all.yaml"))
    assert (profile.finetune.num_epochs, profile.sdg.generator) == (3, "llm")


def test_documents_elsewhere_are_named_in_full(tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    make_project(tmp_path / "mine", documents, "laptop", 8000)
    assert load_profile(str(tmp_path / "mine/retune.yaml")).corpus.corpus_dir == str(documents)


def test_without_documents_a_project_has_those_of_its_profile(tmp_path: Path) -> None:
    make_project(tmp_path / "mine", None, "demo", 8000)
    settings = tmp_path / "mine/retune.yaml"
    profile, demo = load_profile(str(settings)), load_profile("demo")
    assert profile.corpus == demo.corpus
    assert len(demo.corpus.corpus_dir.split(",")) == 20
    laptop = load_profile("laptop")
    others = {name: getattr(laptop, name) for name in ("corpus", "prep", "finetune")}
    assert demo.model_copy(update=others) == laptop

    settings.write_text(settings.read_text("utf-8").replace("# corpus:", "corpus:"), "utf-8")
    assert load_profile(str(settings)).corpus == demo.corpus, "a section whose lines are all comments"


def test_git_ignores_what_is_made(folder: Path) -> None:
    subprocess.run(["git", "init", "-q", folder], check=True)
    for name in (".dagster/x", "output/x", ".env"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    listed = subprocess.run(
        ["git", "-C", folder, "status", "--porcelain", "-uall"], check=True, capture_output=True, text=True
    )
    assert {line.split()[-1] for line in listed.stdout.splitlines()} == {
        ".gitignore",
        "retune.yaml",
        "workspace.yaml",
    }


def test_typed_paths_are_seen_from_where_they_are_typed(folder: Path) -> None:
    (folder / "below/deep/pairs.jsonl").touch()
    enter_project()
    here = str(folder / "below/deep")
    assert typed_override("sdg_input_path=pairs.jsonl") == f"sdg_input_path={here}/pairs.jsonl"
    assert typed_override("base_model=intfloat/e5-small-v2") == "base_model=intfloat/e5-small-v2"
    assert typed_override("num_epochs=2") == "num_epochs=2"
    assert typed_path(Path("../x")) == Path(here) / "../x"
    assert typed_path(Path("/x")) == Path("/x")


def test_without_a_project_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RETUNE_PROFILE", raising=False)
    monkeypatch.setattr(project, "_started_in", Path.cwd())
    enter_project()
    assert (Path.cwd(), profile_name(), typed_override("a=b")) == (tmp_path, "laptop", "a=b")
    assert profile_name("default") == "default"
    monkeypatch.setenv("RETUNE_PROFILE", "other.yaml")
    assert profile_name() == "other.yaml"


def test_a_project_is_never_overwritten(folder: Path) -> None:
    before = (folder / "retune.yaml").read_bytes()
    with pytest.raises(ProjectError, match="this is a project already"):
        make_project(folder, None, "laptop", 8000)
    assert (folder / "retune.yaml").read_bytes() == before
    with pytest.raises(ProjectError, match="no such folder"):
        make_project(folder / "other", folder / "nowhere", "laptop", 8000)
    assert not (folder / "other").exists()
