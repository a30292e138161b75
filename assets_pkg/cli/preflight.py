"""What a run needs besides its inputs, checked before the first download: consent, keys, Docker, device and disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from assets_pkg.cli.diagnostics import check_device, check_disk, check_docker
from assets_pkg.config.profile import Profile
from assets_pkg.config.sections.sdg import HOSTED
from storage.errors import RetuneError
from storage.remote_store import open_store

if TYPE_CHECKING:
    from assets_pkg.orchestration.plan import Plan


class NotReadyError(RetuneError):
    """The run would fetch a model or documents, and then fail; the message has every reason and its remedy."""


def require_ready(profile: Profile, plan: Plan) -> None:
    """Check what the stages of ``plan`` would be refused for, if the run begins with a download. Otherwise each stage
    checks it, and says more.

    Raises:
        NotReadyError: something is missing.
    """
    if not _downloads(profile, plan) or profile.compute.run_on != "inline":
        return
    problems = list(_problems(profile, plan))
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise NotReadyError(
            f"nothing was fetched, because the run would be refused later:\n{listed}\n"
            "next: the same command with these settings; `retune doctor` checks again, `-d` shows the plan"
        )


def _downloads(profile: Profile, plan: Plan) -> bool:
    from assets_pkg.finetune.base_model import local_base_model
    from assets_pkg.finetune.errors import BaseModelError

    if "raw_corpus" in plan.to_run and profile.corpus.corpus_dir.startswith("hf://"):
        return True
    try:
        return "base_model" in plan.to_run and local_base_model(profile.model) is None
    except BaseModelError:
        return False  # its stage reports it


def _problems(profile: Profile, plan: Plan) -> Iterator[str]:
    if "synthetic_qa" in plan.to_run and profile.sdg.generator == "llm" and not profile.sdg.sdg_input_path:
        yield from _chat_model(profile)
    nim = profile.deploy.backend == "docker" and profile.deploy.server == "nim"
    if "running_nim" in plan.to_run and nim and not os.environ.get("NGC_API_KEY"):
        yield "deploy: NGC_API_KEY is not set: put it in the environment or .env, or set deploy.server=retune"
    findings = [check_disk(open_store(profile.artifact_root).root), *check_device(profile)]
    if "running_nim" in plan.to_run and profile.deploy.backend == "docker":
        findings.append(check_docker(needed=True))
    yield from (f"{each.subject}: {each.text}" for each in findings if each.level == "problem")


def _chat_model(profile: Profile) -> Iterator[str]:
    from resources.endpoints import endpoint_host, is_allowed

    settings = profile.sdg
    host, _ = endpoint_host(settings.base_url)
    if not is_allowed(settings.base_url, settings.allow_corpus_egress, settings.approved_endpoints):
        yield (
            f"sdg: the documents would be sent to {host}, which is not allowed yet. If your data policy permits it: "
            f"sdg.approved_endpoints={host}. To keep them here: sdg.generator=offline, or sdg.base_url of a model of "
            "your own"
        )
    if host == HOSTED and not os.environ.get(settings.api_key_env):
        yield (
            f"sdg: {settings.api_key_env} is not set, and {host} demands it: put it in the environment or .env"
        )
