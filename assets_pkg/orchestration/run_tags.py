"""Tags that say what a run worked with: the settings, the revision of the project, the versions of its data sets.

The first two are those of jobs and are fixed when the code location is loaded; the versions come from the steps that
make them, so that the list of runs can be filtered by them.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress

from assets_pkg.config.base import Settings
from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.names import Names
from storage.digests import digest_json

SETTINGS_TAG = "retune/settings"
REVISION_TAG = "retune/revision"
DATA_SETS = ("raw_corpus", "eval_set", "training_set")
GIT_SECONDS = 5.0


def job_tags(profile: Profile) -> dict[str, str]:
    """The digest of all settings that decide a result, and the commit of the working folder in a git checkout."""
    revision = _revision()
    return {SETTINGS_TAG: settings_digest(profile), **({REVISION_TAG: revision} if revision else {})}


def settings_digest(profile: Profile) -> str:
    """The digest of all settings that decide a result."""
    sections = {name: getattr(profile, name) for name in type(profile).model_fields}
    digests = {name: each.digest() for name, each in sections.items() if isinstance(each, Settings)}
    return digest_json(digests)


def data_set_tags(names: Names, asset: str, version: str) -> dict[str, str]:
    """The tag of a run that made or took ``version`` of ``asset``; none of an asset that is no data set."""
    return {f"retune/{names.of(asset)}": version} if asset in DATA_SETS else {}


def _revision() -> str:
    command = ["git", "rev-parse", "HEAD"]
    with suppress(OSError, subprocess.SubprocessError):  # no git, or no checkout
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS
        ).stdout.strip()
    return ""
