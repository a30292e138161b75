"""The two steps that the assets call: captions to scores, and scores to a ranking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from assets_pkg.config.sections.evaluation import IntervalSettings
from assets_pkg.config.sections.judges import JudgeSettings
from assets_pkg.judges.captions import CaptionSet, read_captions
from assets_pkg.judges.clip_cc_bench import write_ranking, write_results
from assets_pkg.judges.errors import CaptionError, JudgeError
from assets_pkg.judges.page import write_page
from assets_pkg.judges.published import Published, mean_hm_cf, place, read_published
from assets_pkg.judges.ranking import agreement, rank
from assets_pkg.judges.report import draw_agreement, draw_ranking, explain_ties, report_text
from assets_pkg.judges.scoring import METRICS, CaptionScore, Scores, judge_all
from assets_pkg.judges.truncation import count_truncated, to_document
from resources.encoders.factory import Availability, look_up
from resources.encoders.items import ItemEncoder
from resources.encoders.text_lengths import TextLength
from resources.models.registry import Registry, RegistryError
from storage.artifacts import JudgeScores
from storage.files import write_json
from storage.progress import Progress, no_progress


def load_captions(settings: JudgeSettings) -> CaptionSet:
    """Read the captions that the settings name.

    Raises:
        CaptionError: no files are set, or they cannot be judged.
    """
    if settings.references is None or settings.predictions_dir is None:
        raise CaptionError(
            "nothing to judge: set judges.references=FILE (the reference captions) and judges.predictions_dir=FOLDER "
            "(one file for each captioner)"
        )
    return read_captions(
        Path(settings.references), Path(settings.predictions_dir), allow_gaps=settings.allow_gaps
    )


def present_judges(settings: JudgeSettings, registry: Registry) -> list[Availability]:
    """All judges of the settings in their order; those that cannot be used carry the reason. A judge may have
    CLIP-CC-Bench's name (``NV-Embed-v2``).

    Raises:
        JudgeError: fewer are usable than ``min_judges``; the message has the reason for each.
        RegistryError: a judge is not in the registry.
    """
    found = [look_up(registry, _registered(registry, name) or name) for name in settings.judge_models]
    usable = [judge for judge in found if judge.usable]
    if len(usable) < settings.min_judges:
        reasons = "; ".join(f"{judge.name}: {judge.problem}" for judge in found if not judge.usable)
        raise JudgeError(
            f"{len(usable)} of {len(found)} judges can be used, and judges.min_judges = {settings.min_judges}. "
            f"{reasons}"
        )
    return found


def _registered(registry: Registry, name: str) -> str | None:
    """The registry's name of a judge: by its name, alias or hub id, or by the hub id's last part as CLIP-CC-Bench has
    it, in any case of letters; None if there is none."""
    try:
        return registry.name_of(name)
    except RegistryError:
        of_hub = {(entry.hub_id or "").rpartition("/")[2].lower(): short for short, entry in registry}
        return of_hub.get(name.lower())


def load_published(settings: JudgeSettings, registry: Registry) -> Published | None:
    """Read the published results that the settings name, if any.

    Raises:
        CaptionError: they cannot be read.
    """
    if settings.published_results is None:
        return None
    return read_published(Path(settings.published_results), lambda name: _registered(registry, name))


def score_captions(
    captions: CaptionSet,
    judges: Mapping[str, Callable[[], ItemEncoder]],
    skipped: Mapping[str, str],
    folder: Path,
    progress: Progress = no_progress,
    limits: Mapping[str, TextLength] | None = None,
) -> None:
    """Judge all captions and write a `JudgeScores` folder. ``judges`` are opened one after the other; ``skipped`` has
    the reason of each judge that cannot be used; ``limits`` are the longest texts of those that tell."""
    judged = judge_all(judges, captions, progress)
    scores = {name: each.scores for name, each in judged.items()}
    document = {
        "judges": list(scores),
        "captioners": list(captions.predictions),
        "clips": list(captions.clips),
        "scores": {
            judge: {
                name: {clip: asdict(score) for clip, score in by_clip.items()}
                for name, by_clip in by_captioner.items()
            }
            for judge, by_captioner in scores.items()
        },
    }
    write_json(folder / "scores.json", document)
    write_results(folder, scores, captions)
    write_json(folder / "skipped.json", dict(skipped))
    truncated = {name: count_truncated(captions, limit) for name, limit in (limits or {}).items()}
    write_json(folder / "truncated.json", to_document(truncated))
    write_json(folder / "notes.json", captions.notes())
    write_json(folder / "floors.json", {name: each.floor for name, each in judged.items()})
    costs = {name: {"seconds": each.seconds, "texts": each.texts} for name, each in judged.items()}
    write_json(folder / "costs.json", costs)
    write_json(
        folder / "summary.json",
        {
            "judges": len(scores),
            "judges_used": ", ".join(scores),
            "captioners": len(captions.predictions),
            "clips": len(captions.clips),
            "clips_left_out": len(captions.left_out),
        },
    )


def rank_captioners(
    made: JudgeScores, intervals: IntervalSettings, folder: Path, published: Published | None = None
) -> None:
    """Rank the captioners of a `JudgeScores` artifact, also beside ``published`` ones, and write a `JudgeRanking`
    folder.

    Raises:
        RankingError: a tie or a gap, so that there is no ranking; or the published results do not fit.
    """
    document = made.scores()
    scores = _restore(document)
    values = {
        judge: {
            name: {clip: score.hm_cf for clip, score in by_clip.items()} for name, by_clip in named.items()
        }
        for judge, named in scores.items()
    }
    ranking = rank(
        values,
        confidence=intervals.confidence,
        samples=intervals.bootstrap_samples,
        seed=intervals.bootstrap_seed,
    )
    agreed = agreement(values)
    rows = [asdict(row) for row in ranking]
    beside = place(mean_hm_cf(values), published, len(document["clips"])) if published else []
    write_json(
        folder / "ranking.json",
        {
            "judges": document["judges"],
            "clips": len(document["clips"]),
            "confidence": intervals.confidence,
            "ranking": rows,
            "spearman": dict(agreed.spearman),
            "without": dict(agreed.without),
            "means": _means(scores),
            "ties": explain_ties(rows),
            **({"beside_published": [asdict(row) for row in beside]} if published else {}),
        },
    )
    write_ranking(folder / "ranking", ranking, scores)
    page = report_text(ranking, agreed, document["judges"], made, intervals.confidence, beside)
    (folder / "report.md").write_text(page, "utf-8")
    draw_ranking(folder / "ranking.png", ranking)
    draw_agreement(folder / "agreement.png", document["judges"], agreed.spearman)
    write_page(folder, made)
    write_json(folder / "summary.json", _summary(rows, agreed.spearman, document["judges"]))


def _summary(
    rows: Sequence[Mapping[str, Any]], spearman: Mapping[str, float], judges: Sequence[str]
) -> dict[str, Any]:
    first = rows[0]
    figures: dict[str, Any] = {
        "first": first["captioner"],
        "first_mean_hm_cf": first["mean"],
        "first_rank_high": first["rank_high"],
        "captioners": len(rows),
        "judges": len(judges),
    }
    return figures | ({"lowest_agreement": min(spearman.values())} if spearman else {})


def _restore(document: Mapping[str, Any]) -> dict[str, Scores]:
    return {
        judge: {
            name: {clip: CaptionScore(**figures) for clip, figures in by_clip.items()}
            for name, by_clip in named.items()
        }
        for judge, named in document["scores"].items()
    }


def _means(scores: Mapping[str, Scores]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean of every metric by judge and captioner."""
    return {
        judge: {
            name: {
                metric: sum(score.figures()[metric] for score in by_clip.values()) / len(by_clip)
                for metric in METRICS
            }
            for name, by_clip in named.items()
        }
        for judge, named in scores.items()
    }
