"""The second request about a source: question-answer pairs of the types in the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, Field

from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.llm.documents import SourceDocument
from assets_pkg.sdg.llm.extraction import ArtifactsOfType
from assets_pkg.sdg.llm.prompts import Prompts
from assets_pkg.sdg.llm.structured_batch import BatchRequest, BatchResult, Failure, NumberedItem, ask_batch
from resources.chat_model.client import ChatSession
from resources.chat_model.structured import Schema
from resources.language import ENGLISH, language_of
from storage.digests import digest_text
from storage.formats.qa_records import HopContext, QAPair


@dataclass(frozen=True)
class Slot:
    """A pair to be written: its number and its types."""

    number: int
    query_type: str
    reasoning_type: str


def slots(settings: SdgSettings, source_id: str) -> dict[int, Slot]:
    """The pairs to be written about a source, by number, with the numbers of each type in the settings. The
    combination of query and reasoning types is rotated by the source, so that all combinations occur."""
    queries = [name for name, count in settings.query_type_counts().items() for _ in range(count)]
    reasons = [name for name, count in settings.reasoning_type_counts().items() for _ in range(count)]
    offset = int(digest_text(source_id), 16) % len(reasons)
    types = zip(queries, reasons[offset:] + reasons[:offset], strict=True)
    return {number: Slot(number, *pair) for number, pair in enumerate(types, start=1)}


class _Hop(BaseModel):
    segments: Annotated[list[int], Field(min_length=1)]
    summary: str


class DraftPair(NumberedItem):
    """A pair as the model writes it."""

    question: Annotated[str, Field(pattern=r"\S")]
    answer: Annotated[str, Field(pattern=r"\S")]
    complexity: Annotated[int, Field(ge=1, le=5)]
    hops: Annotated[list[_Hop], Field(min_length=1)]

    def segments(self) -> list[int]:
        """The segments of all hops, in order, each once."""
        return sorted({segment for hop in self.hops for segment in hop.segments})

    def record(self, slot: Slot) -> QAPair:
        """The pair in the record format."""
        return QAPair(
            question=" ".join(self.question.split()),
            answer=self.answer.strip(),
            question_complexity=self.complexity,
            query_type=slot.query_type,
            reasoning_type=slot.reasoning_type,
            segment_ids=self.segments(),
            hop_count=len(self.hops),
            hop_contexts=[
                HopContext(hop_number=number, segment_ids=hop.segments, summary=hop.summary)
                for number, hop in enumerate(self.hops, start=1)
            ],
        )


class _Answer(BaseModel):
    pairs: list[DraftPair]


SEGMENTS_LOOKED_AT = 20
"""For the language of a document."""

# The names and docstrings of these classes are in the schema, and with it in the keys of cached answers.
SCHEMA = Schema.of("pairs", _Answer)


async def write_pairs(
    source: SourceDocument,
    settings: SdgSettings,
    prompts: Prompts,
    session: ChatSession,
    wanted: Mapping[int, Slot],
    artifacts: BatchResult[ArtifactsOfType],
) -> BatchResult[DraftPair]:
    """A draft for every slot, or the reason why there is none."""
    lines = [
        line
        for number in sorted(artifacts.items)
        for line in artifacts.items[number].lines(settings.max_artifacts_per_type)
    ]

    def describe(number: int) -> str:
        slot = wanted[number]
        hops = f", {_least_hops(slot, settings)} to {settings.max_hops} hops"
        return f"Pair {number}: query type {slot.query_type}, reasoning type {slot.reasoning_type}{hops}"

    request = BatchRequest(
        model=settings.qa_generation_model,
        prompts=prompts,
        schema=SCHEMA,
        key="pairs",
        item=DraftPair,
        prompt=lambda numbers: (
            prompts.fill(
                "generate",
                count=len(numbers),
                pairs="\n".join(map(describe, numbers)),
                artifacts="\n".join(lines) or "(choose yourself)",
                min_complexity=settings.min_complexity,
                text=source.prompt_text(),
            )
            + _in_its_language(source)
        ),
        check=lambda draft: check_draft(draft, wanted[draft.number], settings, len(source.chunks)),
        missing="wrong_count",
        describe=describe,
    )
    return await ask_batch(session, request, list(wanted))


def _in_its_language(source: SourceDocument) -> str:
    """What to add for a document that is not in English: a model asked in English would ask in English."""
    language = language_of("\n".join(chunk.text for chunk in source.chunks[:SEGMENTS_LOOKED_AT]))
    if language == ENGLISH:
        return ""
    asked = f"The text is in the language {language!r} (ISO 639-1)"
    return f"\n{asked}: write all questions and answers in that language.\n"


def check_draft(draft: DraftPair, slot: Slot, settings: SdgSettings, segments: int) -> Failure | None:
    """Why a draft is refused, or None."""
    unknown = [segment for segment in draft.segments() if not 1 <= segment <= segments]
    if unknown:
        return Failure("missing_segment", f"segment {unknown[0]} does not exist, the last is {segments}")
    least, most = _least_hops(slot, settings), settings.max_hops
    if not least <= len(draft.hops) <= most:
        return Failure("hop_count", f"{len(draft.hops)} hops, wanted {least} to {most}")
    if draft.complexity < settings.min_complexity:
        return Failure(
            "low_complexity", f"complexity {draft.complexity}, wanted {settings.min_complexity} or more"
        )
    return None


def _least_hops(slot: Slot, settings: SdgSettings) -> int:
    return settings.min_hops if slot.query_type == "multi_hop" else 1
