"""The benchmarks' commands: a dry run says what is missing of the files that would be judged or measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command.conftest import Workplace, make_workplace

GIVEN = ("judges.references=references.json", "judges.predictions_dir=predictions")


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Captions of one captioner, and a table of two images, of which one is not there."""
    workplace = make_workplace(tmp_path / "project", Path("no-model-is-needed"), documents=1)
    (workplace.home / "references.json").write_text(json.dumps({"clip": "A pump runs."}))
    (workplace.home / "predictions").mkdir()
    (workplace.home / "predictions" / "one.json").write_text(json.dumps({"clip": "A pump."}))
    (workplace.home / "there.png").write_bytes(b"an image")
    (workplace.home / "whole.csv").write_text("text,image\npump,there.png\n")
    (workplace.home / "pairs.csv").write_text("text,image\npump,there.png\nkiln,gone.png\n")
    return workplace


@pytest.mark.parametrize(
    ("command", "settings", "message"),
    [
        ("judge", (GIVEN[0], "predictions_dir=nowhere"), "nowhere: no such folder"),
        ("image-text", ("pairs=pairs.csv",), "image 'gone.png': no such file"),
        ("image-text", ("pairs=whole.csv",), "nearest_colour only reads the colour of plain swatches"),
    ],
)
def test_a_dry_run_names_the_files_that_are_missing(
    workplace: Workplace, command: str, settings: tuple[str, ...], message: str
) -> None:
    code, output = workplace.retune(command, "-d", *settings)
    assert code == 1
    assert message in output
    assert "Traceback" not in output
    assert "would run" not in output


@pytest.mark.parametrize(
    ("command", "settings"), [("judge", GIVEN), ("image-text", ("pairs=pairs.csv", "captioner=none"))]
)
def test_a_dry_run_with_all_files_shows_the_plan(
    workplace: Workplace, command: str, settings: tuple[str, ...]
) -> None:
    (workplace.home / "gone.png").write_bytes(b"an image")
    code, output = workplace.retune(command, "-d", *settings)
    assert code == 0, output
    assert "would run" in output
    assert not (workplace.home / "output").exists()


def test_the_ranking_and_the_judges_that_were_left_out_are_shown(workplace: Workplace) -> None:
    (workplace.home / "predictions" / "two.json").write_text(json.dumps({"clip": "A cat sleeps."}))
    judges = "judges.judge_models=[all-minilm-l6-v2,qwen3-embedding-8b]"
    code, output = workplace.retune("judge", *GIVEN, judges)
    assert code == 0, output
    rows = [line.split()[:3] for line in output.splitlines()]
    assert [row for row in rows if row[1:2] in (["one"], ["two"])] == [["1", "one", "1"], ["2", "two", "0"]]
    assert "left out qwen3-embedding-8b: no weights in" in output


def test_what_images_were_found_is_shown(workplace: Workplace) -> None:
    code, output = workplace.retune("image-text", "num_pairs_limit=8", "image_text_models=[all-minilm-l6-v2]")
    assert code == 0, output
    rows = [line.split() for line in output.splitlines()]
    (heading,) = (row for row in rows if row[:2] == ["model", "condition"])
    (oracle,) = (row for row in rows if row[:2] == ["all-minilm-l6-v2", "oracle"])
    assert heading[2:6] == ["R@1", "t2i", "MRR", "t2i"]
    assert 0 < float(oracle[2]) <= float(oracle[3]) <= 1
