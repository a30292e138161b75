"""What asking the chat model would take, for a plan that is only shown."""

from __future__ import annotations

from pathlib import Path

from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.plan import Plan
from assets_pkg.sdg.llm import estimate, estimate_folder
from storage.artifacts import Corpus, Passages


def forecast(profile: Profile, plan: Plan, made: tuple[Corpus, Passages] | None) -> list[str]:
    """Lines for people; none where the plan asks no chat model.

    Args:
        made: the corpus and its passages where both are up to date; else file sizes serve, where there are files.
    """
    if profile.sdg.generator != "llm" or profile.sdg.sdg_input_path or "synthetic_qa" not in plan.to_run:
        return []
    if made is not None:
        return estimate(*made, profile.sdg).lines()
    folder = Path(profile.corpus.corpus_dir).expanduser()
    if folder.is_dir():
        return estimate_folder(folder, profile.corpus, profile.sdg).lines()
    return [f"{profile.corpus.corpus_dir} was not read yet, so documents and calls cannot be counted"]
