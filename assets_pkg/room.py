"""What every stage of a profile that loads a model would take, and of which device: told without loading anything."""

from __future__ import annotations

from dataclasses import dataclass

from assets_pkg.finetune.memory import Load, mini_batches, savings
from assets_pkg.finetune.settings import FinetuneSettings
from assets_pkg.profile import Profile
from resources.accelerator import Accelerator
from resources.encoders.sentence_transformer import encoder_need
from resources.memory import GB, MemoryNeed, Numerics, export_need
from resources.models.shape import ModelShape


@dataclass(frozen=True)
class StageRoom:
    """The need of one stage and the device it runs on. ``certain``: what would refuse the stage; otherwise texts
    shorter than the longest allowed may still fit. ``way_out``: settings with which it would."""

    stage: str
    need: MemoryNeed
    device: Accelerator
    certain: bool = True
    way_out: str = ""

    @property
    def fits(self) -> bool:
        return self.need.total <= self.device.memory_bytes

    def __str__(self) -> str:
        free = f"{self.device.memory_bytes / GB:.2f} GB free on {self.device.device}"
        longest = "" if self.certain else ", if every text is as long as the model takes it"
        return f"{self.stage}: about {self.need}{longest}; {free}"


def stage_rooms(
    profile: Profile, shape: ModelShape, accelerator: Accelerator, host: Accelerator
) -> list[StageRoom]:
    """Stages in the order of a run; all with a model as large as the base."""

    def embedding(stage: str, batch_size: int) -> StageRoom:
        model = profile.model
        how = Numerics(
            accelerator.device,
            bf16=model.embed_precision == "bf16",
            fused=model.attn_implementation != "eager",
        )
        length = max(model.query_max_length, model.passage_max_length)
        return StageRoom(stage, encoder_need(shape, batch_size, length, how), accelerator)

    rooms = [embedding("mining", profile.prep.mining_batch_size)]
    if profile.finetune.method == "full":
        rooms.append(_training(profile, shape, accelerator))
    rooms.append(embedding("eval, reindex", profile.eval.eval_batch_size))
    return [*rooms, StageRoom("export", export_need(shape), host)]


def _training(profile: Profile, shape: ModelShape, accelerator: Accelerator) -> StageRoom:
    settings, model = profile.finetune, profile.model
    load = Load.worst(shape, model, settings, settings.global_batch_size)
    need = load.need(settings, accelerator)
    certain = mini_batches(settings, model, load.questions, accelerator.device).cached
    return StageRoom("finetune", need, accelerator, certain, _way_out(load, settings, accelerator))


def _way_out(load: Load, settings: FinetuneSettings, accelerator: Accelerator) -> str:
    fitting = (
        text
        for text, changed in savings(settings, load.questions)
        if load.need(changed, accelerator).total <= accelerator.memory_bytes
    )
    return next(fitting, "")
