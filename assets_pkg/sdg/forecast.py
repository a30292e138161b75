"""The estimate of the chat model's calls, tokens and cost for ``--dry-run``."""

from __future__ import annotations

from pathlib import Path

from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.plan import Plan
from assets_pkg.sdg.llm import estimate, estimate_folder
from storage.artifacts import Corpus, Passages


def forecast(profile: Profile, plan: Plan, made: tuple[Corpus, Passages] | None) -> list[str]:
    """The estimate as lines of text; empty if the plan does not call the chat model.

    Args:
        profile: the settings.
        plan: the assets to run.
        made: the corpus and its passages if both are up to date; else the estimate is from file sizes.
    """
    if profile.sdg.generator != "llm" or profile.sdg.sdg_input_path or "synthetic_qa" not in plan.to_run:
        return []
    if made is not None:
        return estimate(*made, profile.sdg).lines()
    folder = Path(profile.corpus.corpus_dir).expanduser()
    if folder.is_dir():
        return estimate_folder(folder, profile.corpus, profile.sdg).lines()
    return [f"{profile.corpus.corpus_dir} was not read yet, so documents and calls cannot be counted"]
