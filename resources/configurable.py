"""The resources that assets are handed, as Dagster configures them; what they open is free of Dagster.

What decides a result is not a field of a resource but an object that it depends on: no code version knows what was
typed into a resource's fields in the Launchpad. Settings of a run are the config of its steps.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Self

import dagster as dg

from resources.alerts import send_alert
from resources.chat_model.client import ChatModel
from resources.chat_model.config import ChatConfig
from resources.compute.distributed_embedding import MakeShards
from resources.compute.stage_targets import StageTargets
from resources.containers import ContainerEngine
from resources.encoders.cached import CachedEncoder
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.recipe import EncoderRecipe
from resources.machine.accelerator import Accelerator, find_accelerator
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint
from storage.paths import EMBEDDING_CACHE
from storage.remote_store import open_store


class AcceleratorResource(dg.ConfigurableResource[Any]):
    """Injected into every step that trains or embeds.

    ``device``: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. ``check_memory``: refuse a stage whose estimated
    need is more than what is free, before its weights are loaded.
    """

    device: str = "auto"
    check_memory: bool = True

    def get(self) -> Accelerator:
        """Look at the machine now (free memory changes between steps)."""
        return find_accelerator(self.device, check_memory=self.check_memory)

    def host(self) -> Accelerator:
        """The CPU, for steps that never use anything else."""
        return find_accelerator("cpu", check_memory=self.check_memory)


class AlertsResource(dg.ConfigurableResource[Any]):
    """Injected wherever something can fail while no one is watching.

    ``webhook_variable`` names the environment variable with the webhook's address.
    """

    webhook_variable: str = "RETUNE_ALERT_WEBHOOK"

    def send(self, event: str, text: str) -> bool:
        """As :func:`resources.alerts.send_alert`."""
        return send_alert(self.webhook_variable, event, text)


class ArtifactStoreResource(dg.ConfigurableResource[Any]):
    """Injected into every asset. ``root`` is the profile's ``artifact_root``: a folder or an fsspec URL."""

    root: str

    def get(self) -> ArtifactStore:
        return open_store(self.root)


class ChatModelResource(dg.ConfigurableResource[ChatModel]):
    """Injected into the step that generates questions.

    ``api_key`` is always a ``dg.EnvVar``, so that only its name is in any configuration.
    """

    chat_config: dg.ResourceDependency[ChatConfig]
    api_key: str = ""

    @classmethod
    def from_config(cls, config: ChatConfig) -> Self:
        """The resource of one endpoint. Where the key's variable is not set there is no key: loopback endpoints
        need none, and others say so when they are first used."""
        key = dg.EnvVar(config.api_key_env) if os.environ.get(config.api_key_env) else ""
        return cls(chat_config=config, api_key=key)

    def get(self) -> ChatModel:
        """The plain object that stages are handed."""
        return ChatModel(self.chat_config, self.api_key)

    def __repr__(self) -> str:
        return f"ChatModelResource({self.chat_config.base_url!r})"

    __str__ = __repr__


class ComputeResource(dg.ConfigurableResource[Any]):
    """Injected into every asset that builds something.

    Attributes:
        profile_targets: where the profile has stages run.
        run_on: for one run, the compute target of every stage that ``stages`` does not name; ``inline`` is this
            process, null what the profile says.
        stages: for one run, compute targets by stage; null: what the profile says.
    """

    profile_targets: dg.ResourceDependency[StageTargets] = StageTargets()  # pyright: ignore[reportAssignmentType]
    run_on: str | None = None
    stages: Mapping[str, str] | None = None

    def get(self) -> StageTargets:
        """Where this run's stages run."""
        profile = self.profile_targets
        return replace(
            profile,
            run_on=profile.run_on if self.run_on is None else self.run_on,
            stages=profile.stages if self.stages is None else self.stages,
        )

    def workers(self, recipe: EncoderRecipe) -> MakeShards | None:
        """As :meth:`StageTargets.workers`."""
        return self.profile_targets.workers(recipe)


class ContainerEngineResource(dg.ConfigurableResource[Any]):
    """The engine at ``base_url``, or the one that ``DOCKER_HOST`` names; connected to when first needed."""

    base_url: str | None = None

    def get(self) -> ContainerEngine:
        return ContainerEngine(self.base_url)


class EncoderResource(dg.ConfigurableResource[Any]):
    """Injected into every step that embeds. Vectors are computed once per model, prompt, length and text."""

    store: dg.ResourceDependency[ArtifactStoreResource]
    accelerator: dg.ResourceDependency[AcceleratorResource]
    encoder_config: dg.ResourceDependency[EncoderConfig]

    def open(
        self, checkpoint: Checkpoint, batch_size: int | None = None
    ) -> AbstractContextManager[CachedEncoder]:
        """The encoder of one checkpoint; its weights are loaded when first needed and freed at the end."""
        cache = self.store.get().root / EMBEDDING_CACHE
        return self.recipe(checkpoint, batch_size).open_cached(cache, self.accelerator.get())

    def recipe(self, checkpoint: Checkpoint, batch_size: int | None = None) -> EncoderRecipe:
        """How other processes make the encoder of one checkpoint."""
        config = self.encoder_config
        return EncoderRecipe(
            str(checkpoint.model.absolute()),
            checkpoint.version,
            replace(config, batch_size=batch_size or config.batch_size),
            device=self.accelerator.device,
            check_memory=self.accelerator.check_memory,
        )
