"""The checks of ``retune doctor``: is this machine ready for a profile, and does each stage fit its memory."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from assets_pkg.config.profile import Profile
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune.model_io import use_bf16
from assets_pkg.finetune.preflight import Workload, mini_batches, savings
from resources.encoders.sentence_transformer import encoder_need
from resources.machine.accelerator import Accelerator
from resources.machine.memory_estimate import GB, MemoryNeed, Numerics, export_need
from resources.models.registry import RegistryError
from resources.models.shape import ModelShape
from storage.artifact_store import ArtifactError
from storage.remote_store import open_store

NEEDED_DISK_GB = 5
NEEDED_MEMORY_GB = 4
SHOWN_TOKENS = 100
"""Length of the texts whose number a second is shown."""

KEYS = ("NVIDIA_API_KEY", "NGC_API_KEY", "HF_TOKEN")


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``note``: worth knowing, and no obstacle; ``problem``: the profile cannot run so."""

    level: Literal["ok", "note", "problem"]
    subject: str
    text: str


def examine(profile: Profile) -> Iterator[Finding]:
    """Check everything that a run of ``profile`` needs."""
    yield _python()
    yield _history()
    yield _artifacts(profile)
    yield check_disk(open_store(profile.artifact_root).root)
    yield _memory()
    yield from check_device(profile)
    yield check_docker(needed=profile.deploy.backend == "docker")
    yield from _keys(profile)
    yield _model(profile)
    yield _corpus(profile)
    yield _port(profile)


def _python() -> Finding:
    return Finding("ok", "python", f"{platform.python_version()} at {sys.executable}")


def _history() -> Finding:
    from assets_pkg.orchestration.instance import (
        POSTGRES_ENVIRONMENT,
        InstanceError,
        check_postgres,
        history_folder,
    )

    if not os.environ.get(POSTGRES_ENVIRONMENT):
        return Finding(
            "ok", "history", f"files in {history_folder()}; set {POSTGRES_ENVIRONMENT} to share one in a team"
        )
    try:
        return Finding("ok", "history", f"on the PostgreSQL server {check_postgres()}")
    except InstanceError as error:
        return Finding("problem", "history", str(error))


def _artifacts(profile: Profile) -> Finding:
    store = open_store(profile.artifact_root)
    try:
        store.check()
    except ArtifactError as error:
        return Finding("problem", "artifacts", str(error))
    copy = "" if store.location == str(store.root) else f"; this machine's copy is in {store.root}"
    return Finding("ok", "artifacts", f"{store.location} can be read and written{copy}")


def check_disk(root: Path) -> Finding:
    folder = next(each for each in [root.absolute(), *root.absolute().parents] if os.access(each, os.F_OK))
    free = shutil.disk_usage(folder).free / 1e9
    if free < NEEDED_DISK_GB:
        return Finding(
            "problem",
            "disk",
            f"{free:.1f} GB free at {folder}: free some, or set artifact_root to another disk",
        )
    return Finding("ok", "disk", f"{free:.0f} GB free at {folder}")


def _memory() -> Finding:
    from resources.machine.host_memory import available_memory

    free = available_memory() / 1e9
    if free < NEEDED_MEMORY_GB:
        return Finding("problem", "memory", f"{free:.1f} GB available: close programs, or lower batch sizes")
    return Finding("ok", "memory", f"{free:.0f} GB available")


def check_device(profile: Profile) -> Iterator[Finding]:
    """The device that the profile selects, and the memory estimate of each stage."""
    from resources.machine.accelerator import VISIBLE, find_accelerator, visible_gpus

    try:
        found = find_accelerator(profile.accelerator.device)
    except ValueError as error:
        yield Finding("problem", "device", str(error))
        return
    free = f"{found.memory_bytes / 1e9:.1f} GB free"
    if found.device == "cpu":
        text = f"cpu ({found.name}), {free}: the laptop profile needs no GPU; models of 1B and more do"
        yield Finding("note", "device", text)
    else:
        count = f", {visible_gpus()} visible" if found.device.startswith("cuda") else ""
        limited = f" ({VISIBLE}={os.environ[VISIBLE]})" if VISIBLE in os.environ else ""
        yield Finding("ok", "device", f"{found.device} ({found.name}), {free}{count}{limited}")
    yield from _stages(profile, found, find_accelerator("cpu"))


def _stages(profile: Profile, accelerator: Accelerator, host: Accelerator) -> Iterator[Finding]:
    from assets_pkg.finetune.base_model import local_base_model
    from assets_pkg.finetune.errors import BaseModelError
    from resources.models.shape import read_shape

    try:
        folder = local_base_model(profile.model)
        shape = None if folder is None else read_shape(folder)
    except (BaseModelError, ValueError):
        return  # the finding of the model reports it
    if shape is None:
        name = profile.model.base_model
        yield Finding("note", "stage memory", f"{name}: estimated once its weights are downloaded")
        return
    for estimate in stage_memory(profile, shape, accelerator, host):
        if estimate.fits:
            yield Finding("ok", "stage memory", str(estimate))
            continue
        level: Literal["note", "problem"] = "problem" if estimate.certain else "note"
        advice = f": {estimate.remedy} would fit" if estimate.remedy else ""
        yield Finding(level, "stage memory", f"{estimate}{advice}")
    yield from _speed(profile, shape, accelerator)


def _speed(profile: Profile, shape: ModelShape, accelerator: Accelerator) -> Iterator[Finding]:
    from resources.encoders.speed import inference_rate, training_rate

    device, embeds_in_bf16 = accelerator.device, profile.model.embed_precision == "bf16"
    rate = inference_rate(device, bf16=embeds_in_bf16)
    yield Finding("ok", "speed", f"embedding: {most_texts(shape, rate, 1)}{_computed(rate, embeds_in_bf16)}")
    if profile.finetune.method == "full":
        trains_in_bf16 = use_bf16(profile.finetune, accelerator)
        rate = training_rate(device, bf16=trains_in_bf16)
        yield Finding(
            "ok", "speed", f"finetune: {most_texts(shape, rate, 3)}{_computed(rate, trains_in_bf16)}"
        )


def most_texts(shape: ModelShape, rate: float, passes: int) -> str:
    """How many texts a second a network of this shape can process at the most.

    Args:
        rate: FLOP a second of linear layers.
        passes: 1 to embed; 3 to train, whose backward pass costs twice as much as the forward one.
    """
    flop = passes * 2 * sum(outputs * inputs for outputs, inputs in shape.linear) * SHOWN_TOKENS
    return f"at most {rate / flop:,.0f} texts of {SHOWN_TOKENS} tokens a second" if flop else "not estimated"


def _computed(rate: float, bf16: bool) -> str:
    return f", in {'bf16' if bf16 else 'fp32'} ({rate / 1e9:,.0f} GFLOP/s of linear layers, measured now)"


def check_docker(needed: bool) -> Finding:
    import docker
    from docker.errors import DockerException

    try:
        version = docker.from_env(timeout=5).version()["Version"]
    except DockerException:
        level: Literal["note", "problem"] = "problem" if needed else "note"
        return Finding(level, "docker", "the engine does not answer: start it, or set deploy.backend=process")
    return Finding("ok", "docker", f"engine {version}")


def _runs_nim(profile: Profile) -> bool:
    return profile.deploy.backend == "docker" and profile.deploy.server == "nim"


def _keys(profile: Profile) -> Iterator[Finding]:
    needed = {"NVIDIA_API_KEY"} if profile.sdg.generator == "llm" else set()
    needed |= {"NGC_API_KEY"} if _runs_nim(profile) else set()
    for key in KEYS:
        if os.environ.get(key):
            yield Finding("ok", key, "set")
        elif key in needed:
            yield Finding(
                "problem", key, "not set, and this profile needs it: put it in the environment or .env"
            )
        else:
            yield Finding("note", key, "not set; this profile does not need it")


def _model(profile: Profile) -> Finding:
    from assets_pkg.finetune.base_model import describe_contract
    from resources.models.naming import ModelNameError, find_named

    try:
        named = find_named(profile.model.base_model, profile.model.revision)
    except (ModelNameError, RegistryError) as error:
        return Finding("problem", "model", str(error))
    contract = describe_contract(profile.model)
    if named.folder is not None:
        return Finding("ok", "model", f"{contract} ({named.folder})")
    commit = f" at {named.revision}" if named.revision else ""
    return Finding(
        "note",
        "model",
        f"{contract}; not here: it is downloaded as {named.hub_id}{commit} from the Hugging Face hub",
    )


def _corpus(profile: Profile) -> Finding:
    from assets_pkg.corpus.sources import CorpusError, source_fingerprint

    try:
        source_fingerprint(profile.corpus)
    except CorpusError as error:
        return Finding("problem", "corpus", str(error))
    return Finding("ok", "corpus", profile.corpus.corpus_dir)


def _port(profile: Profile) -> Finding:
    from assets_pkg.deploy.deploy import read_state
    from storage.paths import STATE_FOLDER

    port, host = profile.deploy.host_port, profile.deploy.host
    state = read_state(open_store(profile.artifact_root).root / STATE_FOLDER)
    if state is not None and state.port == port and state.alive():
        return Finding("ok", "port", f"{port}: used by the deployed embedding server")
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            return Finding(
                "problem", "port", f"{port} on {host} is in use: choose another with deploy.host_port=PORT"
            )
    return Finding("ok", "port", f"{port} is free")


@dataclass(frozen=True)
class StageMemory:
    """The memory estimate of one stage, and the device it runs on.

    ``certain``: the stage would be refused if it did not fit; otherwise the estimate is for texts of the maximum
    length, and shorter ones may fit. ``remedy``: settings with which it would fit, if there are any.
    """

    stage: str
    need: MemoryNeed
    device: Accelerator
    certain: bool = True
    remedy: str = ""

    @property
    def fits(self) -> bool:
        return self.need.total <= self.device.memory_bytes

    def __str__(self) -> str:
        free = f"{self.device.memory_bytes / GB:.2f} GB free on {self.device.device}"
        longest = "" if self.certain else ", if every text has the maximum length"
        return f"{self.stage}: about {self.need}{longest}; {free}"


def stage_memory(
    profile: Profile, shape: ModelShape, accelerator: Accelerator, host: Accelerator
) -> list[StageMemory]:
    """Memory estimates of the stages in the order of a run, each with a model of the base model's shape."""
    model = profile.model
    numerics = Numerics(
        accelerator.device, bf16=model.embed_precision == "bf16", fused=model.attn_implementation != "eager"
    )
    length = max(model.query_max_length, model.passage_max_length)

    def embedding(stage: str, batch_size: int) -> StageMemory:
        return StageMemory(stage, encoder_need(shape, batch_size, length, numerics), accelerator)

    training = [_training(profile, shape, accelerator)] if profile.finetune.method == "full" else []
    return [
        embedding("mining", profile.prep.mining_batch_size),
        *training,
        embedding("eval, reindex", profile.eval.eval_batch_size),
        StageMemory("export", export_need(shape), host),
    ]


def _training(profile: Profile, shape: ModelShape, accelerator: Accelerator) -> StageMemory:
    settings, model = profile.finetune, profile.model
    load = Workload.upper_bound(shape, model, settings, settings.global_batch_size)
    need = load.need(settings, accelerator)
    certain = mini_batches(settings, model, load.questions, accelerator.device).cached
    return StageMemory("finetune", need, accelerator, certain, _remedy(load, settings, accelerator))


def _remedy(load: Workload, settings: FinetuneSettings, accelerator: Accelerator) -> str:
    fitting = (
        text
        for text, changed in savings(settings, load.questions)
        if load.need(changed, accelerator).total <= accelerator.memory_bytes
    )
    return next(fitting, "")
