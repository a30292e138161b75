"""A ranking beside published results, worked by hand, and what is wrong with the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assets_pkg.judges.errors import CaptionError, RankingError
from assets_pkg.judges.published import Published, place, read_published
from assets_pkg.judges.report import explain_ties

NAMES = {"nemo": "llama", "NV-Embed-v2": "nv"}
# Two judges, three published captioners and one that is judged here:
#   llama: c .9 a .8 mine .6 b .5 -> c3 a2 mine1 b0
#   nv:    mine .7 c .5 b .3 a .2 -> mine3 c2 b1 a0
# totals: c 5, mine 4, a 2, b 1
PUBLISHED = {"nemo": {"a": 0.8, "b": 0.5, "c": 0.9}, "NV-Embed-v2": {"a": 0.2, "b": 0.3, "c": 0.5}}
OWN = {"llama": {"mine": 0.6}, "nv": {"mine": 0.7}, "minilm": {"mine": 0.1}}


def write(root: Path, means: dict[str, dict[str, float]] = PUBLISHED, **changes: Any) -> Path:
    """The files of CLIP-CC-Bench's ``aggregated_results``; ``changes`` replace fields of each."""
    for judge, named in means.items():
        for captioner, mean in named.items():
            document = {
                "decoder_name": judge,
                "model_name": captioner,
                "total_evaluations": 199,
                "successful_evaluations": 199,
                "error_rate": 0.0,
                "hybrid_stats": {"hm_cf": {"mean": mean, "std": 0.1, "min": 0.0, "max": 1.0}},
            }
            path = root / judge / f"{captioner}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(document | changes))
    return root


@pytest.mark.parametrize("below", ["", "aggregated_results", "results/embedding_models/aggregated_results"])
def test_a_captioner_is_placed_among_the_published_ones(below: str, tmp_path: Path) -> None:
    write(tmp_path / below)
    (tmp_path / below / "nemo" / "._a.json").write_bytes(b"\x00")
    placed = place(OWN, read_published(tmp_path, NAMES.get), 199)
    assert [(row.rank, row.captioner, row.points, row.own) for row in placed] == [
        (1, "c", 5, False), (2, "mine", 4, True), (3, "a", 2, False), (4, "b", 1, False),
    ]  # fmt: skip
    assert placed[1].mean == pytest.approx(0.65)


def test_judges_that_are_not_registered_are_told(tmp_path: Path) -> None:
    write(tmp_path, {**PUBLISHED, "other": {"a": 0.1}})
    assert read_published(tmp_path, NAMES.get).unknown == ("other",)
    with pytest.raises(CaptionError, match="no judge of the registry is named NV-Embed-v2, nemo, other"):
        read_published(tmp_path, {}.get)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"error_rate": 0.1}, r"a\.json: error_rate 0\.1: some of its clips"),
        ({"hybrid_stats": {"hm_cf": {}}}, r"a\.json: is not a result of CLIP-CC-Bench: no 'mean'"),
        ({"total_evaluations": "many"}, r"a\.json: total_evaluations, error_rate and the mean"),
    ],
)
def test_a_result_that_cannot_be_used_is_named(changes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match=message):
        read_published(write(tmp_path, **changes), NAMES.get)


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match="no such folder"):
        read_published(tmp_path / "absent", NAMES.get)
    with pytest.raises(CaptionError, match="has no <judge>/<captioner>"):
        read_published(tmp_path, NAMES.get)


def test_captioners_of_other_numbers_of_clips_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, {"nemo": {"d": 0.4}}, total_evaluations=12)
    with pytest.raises(CaptionError, match=r"d\.json has 12 clips and .* 199"):
        read_published(tmp_path, NAMES.get)
    with pytest.raises(RankingError, match="judged on 199 clips, and these on 6"):
        place(OWN, Published({"nv": {"a": 0.5}}, 199), 6)


def test_a_name_in_both_and_no_judge_in_common_are_errors() -> None:
    with pytest.raises(RankingError, match=r"mine is also in judges\.predictions_dir"):
        place(OWN, Published({"nv": {"mine": 0.5}}, 199), 199)
    with pytest.raises(RankingError, match="a judge of both is needed"):
        place(OWN, Published({"kalm": {"a": 0.5}}, 199), 199)


def test_equal_points_are_explained() -> None:
    rows = [
        {"captioner": "x", "points": 4, "mean": 0.52},
        {"captioner": "y", "points": 4, "mean": 0.51},
        {"captioner": "z", "points": 1, "mean": 0.6},
    ]
    assert explain_ties(rows) == [
        "x and y have equal Borda points (4): the mean HM-CF over the judges decides (0.520000 against 0.510000)"
    ]
