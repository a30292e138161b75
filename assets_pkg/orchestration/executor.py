"""How the steps of a run from the UI are executed: each in a process that starts with the heavy libraries loaded."""

from __future__ import annotations

from typing import Any

import dagster as dg

PRELOADED = ("assets_pkg.build", "sentence_transformers")
"""What nearly every step needs, and nothing that starts threads: those would not live on in a forked process."""


@dg.configured(
    dg.multiprocess_executor,
    config_schema={
        "max_concurrent": dg.Field(
            int, is_required=False, description="Steps at the same time; default: one a core."
        )
    },
)
def step_processes(config: dict[str, Any]) -> dict[str, Any]:
    """Dagster's multiprocess executor, which imports :data:`PRELOADED` once a run instead of once a step (five seconds
    or more each) and forks the steps from there."""
    return {**config, "start_method": {"forkserver": {"preload_modules": list(PRELOADED)}}}
