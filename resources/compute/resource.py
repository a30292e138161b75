"""Where the stages of a project run, as a resource of its assets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from resources.compute.environment import Environment, read_environment
from resources.compute.executors import make_executor, runs_here
from resources.compute.ray_data import RaySpread
from resources.compute.spread import ArraySpread, MakeShards
from resources.encoders.recipe import EncoderRecipe

INLINE = "inline"


class ComputeResource(dg.ConfigurableResource[Any]):
    """Injected into every asset that builds something.

    Attributes:
        env_file: the file that describes places.
        run_on: the place of every stage that ``stages`` does not name; ``inline`` is this process.
        stages: places by stage.
        overrides: keys of the chosen places to replace (``run.env.key=value``).
        profile: the settings that a job is handed, as JSON.
        spread: the place whose workers embed corpora together with this job, as JSON, if there is one.
        share: the file by which tasks of a job array learn what to embed.
        inside_job: this process is a job itself: it builds what it is told, and points at nothing.
    """

    env_file: str = "env.toml"
    run_on: str = INLINE
    stages: Mapping[str, str] = {}
    overrides: Mapping[str, str] = {}
    profile: str = "{}"
    spread: str = ""
    share: str = ""
    inside_job: bool = False

    def place_of(self, stage: str) -> tuple[str, Environment] | None:
        """Name and description of the place where ``stage`` runs, or None for this process.

        Raises:
            ComputeError: there is no such place, or its description is wrong.
        """
        name = self.stages.get(stage, self.run_on)
        if self.inside_job or name == INLINE:
            return None
        environment = read_environment(Path(self.env_file), name, self.overrides)
        return None if environment.executor == "inline" else (name, environment)

    def uses_this_machine(self, stage: str) -> bool:
        """Whether ``stage`` takes this machine's own accelerator.

        Raises:
            ComputeError: as for :meth:`place_of`.
        """
        place = self.place_of(stage)
        return place is None or runs_here(place[1])

    def check(self) -> None:
        """Look at every place that is named.

        Raises:
            ComputeError: one of them is described wrongly, or cannot take a job now.
        """
        for stage in ("", *self.stages):
            place = self.place_of(stage)
            if place is not None:
                make_executor(place[1]).check()

    def workers(self, recipe: EncoderRecipe) -> MakeShards | None:
        """Those who embed a corpus together with this process, with encoders by ``recipe``; None if it is alone."""
        if not self.spread:
            return None
        environment = Environment.model_validate_json(self.spread)
        if environment.executor == "ray":
            return RaySpread(environment, recipe)
        assert environment.array is not None
        return ArraySpread(Path(self.share), environment.array, recipe)
