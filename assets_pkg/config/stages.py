"""The stages of the recipe, in order, and the assets that each of them makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from storage.errors import RetuneError

STAGES: dict[str, tuple[str, ...]] = {
    "sdg": ("raw_corpus", "passages", "base_model", "synthetic_qa"),
    "prep": ("eval_set", "training_set", "mined_train_set"),
    "finetune": ("checkpoint",),
    "eval": ("eval_metrics", "promoted_model"),
    "export": ("onnx_model",),
    "deploy": ("running_nim",),
    "reindex": ("search_method", "corpus_embeddings", "vector_index"),
    "eval_nim": ("nim_eval_metrics",),
}

BENCHMARKS: dict[str, tuple[str, ...]] = {
    "judges": ("judge_scores", "judge_ranking"),
    "image_text": ("image_text_pairs", "captions", "image_text_scores", "image_text_report"),
}
"""Groups beside the stages: they compare models, and tune none."""

SECTIONS: dict[str, tuple[str, ...]] = {
    "sdg": ("sdg", "corpus", "passages", "model"),
    "prep": ("prep", "model", "sdg"),
    "finetune": ("finetune", "model", "prep"),
    "eval": ("eval", "gate", "model", "prep"),
    "export": ("export", "model"),
    "deploy": ("deploy",),
    "reindex": ("reindex", "search", "model"),
    "eval_nim": ("eval", "deploy"),
    "judges": ("judges",),
    "image_text": ("image_text",),
}
"""The sections of the profile that a bare setting belongs to when a stage's command is run, its own first."""

WHEN_ASKED: dict[str, str] = {"tensorrt_engine": "export", "single_model_metrics": "eval"}
"""Assets that a stage makes with some settings only (:func:`assets_pkg.config.profile.Profile.stages`)."""

STAGE_OF: dict[str, str] = {
    **WHEN_ASKED,
    **{asset: stage for group in (STAGES, BENCHMARKS) for stage, assets in group.items() for asset in assets},
}
"""The stage or group that makes an asset."""


EMBEDDED_BY_WORKERS = frozenset({"mined_train_set", "corpus_embeddings", "vector_index"})
"""Assets whose corpus the workers of a compute target embed together, and what the same step makes of the vectors."""

TRAINED_ON_NODES = frozenset({"checkpoint"})
"""Assets that the processes of several nodes make together."""


class StageError(RetuneError, ValueError):
    """A stage that does not exist, or a range that runs backwards."""


def assets_between(first: str, last: str, stages: Mapping[str, tuple[str, ...]] = STAGES) -> list[str]:
    """The assets of the ``stages`` from ``first`` to ``last``, both included."""
    names = list(stages)
    for name in (first, last):
        if name not in stages:
            raise StageError(f"no stage {name!r}: choose one of {', '.join(names)}")
    if names.index(first) > names.index(last):
        raise StageError(f"--from {first} comes after --to {last}: the order is {', '.join(names)}")
    chosen: Sequence[str] = names[names.index(first) : names.index(last) + 1]
    return [asset for stage in chosen for asset in stages[stage]]
