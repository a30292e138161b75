"""Published results of other captioners, in the layout of CLIP-CC-Bench, and a ranking beside them.

A folder of ``<judge>/<captioner>.json`` (``results/embedding_models/aggregated_results`` of that repository, or a
folder above it) has the means of each captioner by each judge. Judges may have the origin's names. Of these means
alone no interval over clips can be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from assets_pkg.judges.errors import CaptionError, RankingError
from assets_pkg.judges.ranking import borda_points
from storage.digests import digest_json
from storage.formats.json_values import parse_json, read_whole

BELOW = (
    "",
    "aggregated_results",
    "embedding_models/aggregated_results",
    "results/embedding_models/aggregated_results",
)
"""Where the judges' folders may lie below the given one."""

Means = dict[str, dict[str, float]]
"""Mean hm_cf by judge and captioner."""


@dataclass(frozen=True)
class Published:
    """``means``: by the registry's name of the judge and by captioner; ``clips``: how many each captioner was judged
    on; ``unknown``: folders of judges that are not in the registry."""

    means: Means
    clips: int
    unknown: tuple[str, ...] = ()

    def digest(self) -> str:
        """Digest of the means."""
        return digest_json([self.means, self.clips])


@dataclass(frozen=True)
class Placed:
    """One row of the ranking beside published results. ``own``: judged here; the others are as published."""

    rank: int
    captioner: str
    points: int
    mean: float
    own: bool


def read_published(folder: Path, judge_name: Callable[[str], str | None]) -> Published:
    """Read published means.

    Args:
        judge_name: the registry's name of a folder's judge, or None.

    Raises:
        CaptionError: the folder or a file has another structure, a captioner failed on clips, or the captioners were
            not all judged on the same number of clips.
    """
    means: Means = {}
    unknown: list[str] = []
    counts: dict[str, int] = {}
    for judge_folder in _judge_folders(folder):
        name = judge_name(judge_folder.name)
        if name is None:
            unknown.append(judge_folder.name)
            continue
        for path in sorted(judge_folder.glob("[!.]*.json")):
            mean, counts[str(path)] = _read_mean(path)
            means.setdefault(name, {})[path.stem] = mean
    if not means:
        listed = f": no judge of the registry is named {', '.join(unknown)}" if unknown else ""
        raise CaptionError(f"{folder}: no results of a known judge{listed}")
    if len(set(counts.values())) > 1:
        one, other = min(counts, key=lambda path: counts[path]), max(counts, key=lambda path: counts[path])
        raise CaptionError(
            f"{one} has {counts[one]} clips and {other} {counts[other]}: they cannot be compared"
        )
    return Published(means, next(iter(counts.values())), tuple(unknown))


def place(own: Means, published: Published, clips: int) -> list[Placed]:
    """Rank captioners judged here and published ones together: Borda points over the judges that both have.

    Args:
        own: means of the captioners judged here, by judge.
        clips: how many clips they were judged on.

    Raises:
        RankingError: no judge in common, another number of clips, a captioner of the same name in both, or a tie.
    """
    judges = [judge for judge in own if judge in published.means]
    if not judges:
        raise RankingError(
            f"judges.published_results: judged there by {', '.join(published.means)}, here by {', '.join(own)}: "
            "a judge of both is needed"
        )
    if clips != published.clips:
        raise RankingError(
            f"judges.published_results: the published captioners were judged on {published.clips} clips, and these on "
            f"{clips}: leave the others out of judges.references (CLIP-CC-Bench leaves out clip 126)"
        )
    here = set(own[judges[0]])
    if both := sorted(here & {name for judge in judges for name in published.means[judge]}):
        raise RankingError(
            f"judges.published_results: {', '.join(both)} is also in judges.predictions_dir: rename the file there"
        )
    merged = {judge: published.means[judge] | own[judge] for judge in judges}
    points = borda_points(merged)
    overall = {name: sum(merged[judge][name] for judge in judges) / len(judges) for name in points}
    order = sorted(points, key=lambda name: (-points[name], -overall[name]))
    return [
        Placed(position, name, points[name], overall[name], name in here)
        for position, name in enumerate(order, 1)
    ]


def _judge_folders(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise CaptionError(f"judges.published_results = {folder}: no such folder")
    for below in BELOW:
        found = sorted(
            each
            for each in (folder / below).glob("[!.]*/")
            if each.is_dir()
            and any("hybrid_stats" in path.read_text("utf-8", "replace") for path in each.glob("[!.]*.json"))
        )
        if found:
            yield from found
            return
    raise CaptionError(
        f"judges.published_results = {folder}: has no <judge>/<captioner>.json of CLIP-CC-Bench's aggregated_results"
    )


def _read_mean(path: Path) -> tuple[float, int]:
    document: Any = parse_json(read_whole(path, CaptionError), str(path), CaptionError)
    try:
        total, failed = document["total_evaluations"], document["error_rate"]
        mean = document["hybrid_stats"]["hm_cf"]["mean"]
    except (KeyError, TypeError) as error:
        raise CaptionError(f"{path}: is not a result of CLIP-CC-Bench: no {error.args[0]!r}") from error
    if not all(_is_number(value) for value in (total, failed, mean)):
        raise CaptionError(f"{path}: total_evaluations, error_rate and the mean of hm_cf must be numbers")
    if failed:
        raise CaptionError(f"{path}: error_rate {failed}: some of its clips were not judged")
    return float(mean), int(total)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and cast("float", value) == value


def mean_hm_cf(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Means:
    """Means of scores by judge, captioner and clip."""
    return {
        judge: {name: sum(values.values()) / len(values) for name, values in named.items()}
        for judge, named in scores.items()
    }
