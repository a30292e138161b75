"""First question about a source: what is in it that is worth asking about."""

from __future__ import annotations

from pydantic import BaseModel

from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.llm.documents import Source
from assets_pkg.sdg.llm.prompts import Prompts
from assets_pkg.sdg.llm.structured_batch import Failure, Gathered, NumberedItem, Step, gather
from resources.chat_model import ChatSession, Schema

ARTIFACT_TYPES = (
    "key_concepts",
    "relationships",
    "themes",
    "entities",
    "processes",
    "insights",
    "technical_terms",
    "contextual_factors",
)


class _Artifact(BaseModel):
    name: str
    detail: str


class ArtifactsOfType(NumberedItem):
    """What was found of one type; ``number`` is its place in ``ARTIFACT_TYPES``, from 1."""

    found: list[_Artifact]

    def lines(self, most: int) -> list[str]:
        kind = ARTIFACT_TYPES[self.number - 1].replace("_", " ")
        return [f"- {kind}: {one.name}: {one.detail}" for one in self.found[:most]]


class _Answer(BaseModel):
    artifacts: list[ArtifactsOfType]


SCHEMA = Schema.of("artifacts", _Answer)


async def extract(
    source: Source, settings: SdgSettings, prompts: Prompts, session: ChatSession
) -> Gathered[ArtifactsOfType]:
    """Up to ``max_artifacts_per_type`` artifacts of each type."""

    def line(number: int) -> str:
        return f"Type {number}: {ARTIFACT_TYPES[number - 1]}"

    def no_check(item: ArtifactsOfType) -> Failure | None:
        return None

    step = Step(
        model=settings.artifact_extraction_model,
        prompts=prompts,
        schema=SCHEMA,
        key="artifacts",
        item=ArtifactsOfType,
        prompt=lambda numbers: prompts.fill(
            "extract",
            most=settings.max_artifacts_per_type,
            types="\n".join(map(line, numbers)),
            text=source.shown(),
        ),
        check=no_check,
        missing=None,
        describe=line,
    )
    return await gather(session, step, range(1, len(ARTIFACT_TYPES) + 1))
