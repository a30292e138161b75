"""The first request about a source: its concepts, entities, processes and other artifacts to ask about."""

from __future__ import annotations

from pydantic import BaseModel

from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.llm.documents import SourceDocument
from assets_pkg.sdg.llm.prompts import Prompts
from assets_pkg.sdg.llm.structured_batch import BatchRequest, BatchResult, Failure, NumberedItem, ask_batch
from resources.chat_model.client import ChatSession
from resources.chat_model.structured import Schema

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


# The names and docstrings of these classes are in the schema, and with it in the keys of cached answers.
SCHEMA = Schema.of("artifacts", _Answer)


async def extract(
    source: SourceDocument, settings: SdgSettings, prompts: Prompts, session: ChatSession
) -> BatchResult[ArtifactsOfType]:
    """Up to ``max_artifacts_per_type`` artifacts of each type."""

    def line(number: int) -> str:
        return f"Type {number}: {ARTIFACT_TYPES[number - 1]}"

    def no_check(item: ArtifactsOfType) -> Failure | None:
        return None

    request = BatchRequest(
        model=settings.artifact_extraction_model,
        prompts=prompts,
        schema=SCHEMA,
        key="artifacts",
        item=ArtifactsOfType,
        prompt=lambda numbers: prompts.fill(
            "extract",
            most=settings.max_artifacts_per_type,
            types="\n".join(map(line, numbers)),
            text=source.prompt_text(),
        ),
        check=no_check,
        missing=None,
        describe=line,
    )
    return await ask_batch(session, request, range(1, len(ARTIFACT_TYPES) + 1))
