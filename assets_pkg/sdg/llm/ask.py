"""The three requests about one source (extract, generate, judge), and their result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.llm.documents import SourceDocument
from assets_pkg.sdg.llm.extraction import extract
from assets_pkg.sdg.llm.judging import judge
from assets_pkg.sdg.llm.pairs import DraftPair, Slot, slots, write_pairs
from assets_pkg.sdg.llm.prompts import Prompts
from assets_pkg.sdg.llm.structured_batch import BatchResult, Failure
from resources.chat_model.client import ChatSession
from storage.formats.qa_records import QAEvaluation, QAPair


@dataclass(frozen=True)
class Rejected:
    """Something requested that is not in the result. ``number`` is the pair's; extractions and surplus entries have
    none."""

    source_id: str
    step: str
    reason: str
    detail: str
    number: int | None = None
    query_type: str | None = None
    reasoning_type: str | None = None
    question: str | None = None


@dataclass(frozen=True)
class JudgedPair:
    slot: Slot
    pair: QAPair
    evaluation: QAEvaluation


@dataclass
class SourceResult:
    """The result of one source: every slot is in ``pairs`` or in ``rejected``."""

    source: SourceDocument
    pairs: list[JudgedPair] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def reject(self, step: str, slot: Slot, why: Failure, question: str | None = None) -> None:
        self.rejected.append(
            Rejected(
                self.source.source_id,
                step,
                why.reason,
                why.detail,
                slot.number,
                slot.query_type,
                slot.reasoning_type,
                question,
            )
        )

    def note(self, step: str, why: Failure) -> None:
        """Record a rejection that is not one of the requested pairs."""
        self.rejected.append(Rejected(self.source.source_id, step, why.reason, why.detail))


async def process_source(
    source: SourceDocument, settings: SdgSettings, prompts: Prompts, session: ChatSession
) -> SourceResult:
    """Extract, generate and judge. If the extraction fails, the pairs are written from the text alone.

    The requests depend on this source only, so that a change of other documents causes no new ones here.

    Raises:
        ChatModelError: the run cannot continue.
    """
    result = SourceResult(source)
    wanted = slots(settings, source.source_id)
    artifacts = await extract(source, settings, prompts, session)
    for why in dict.fromkeys(artifacts.failures.values()):
        result.note("extract", why)
    drafted = await write_pairs(source, settings, prompts, session, wanted, artifacts)
    drafts = drafted.items
    _keep_failures(result, "generate", drafted, wanted, {})
    _drop_repeated(result, drafts, wanted)
    if drafts:
        verdicts = await judge(source, settings, prompts, session, drafts)
        _keep_failures(result, "judge", verdicts, wanted, drafts)
        result.pairs = [
            JudgedPair(wanted[number], drafts[number].record(wanted[number]), verdict.record())
            for number, verdict in sorted(verdicts.items.items())
        ]
    return result


def _keep_failures(
    result: SourceResult,
    step: str,
    found: BatchResult[Any],
    wanted: Mapping[int, Slot],
    drafts: Mapping[int, DraftPair],
) -> None:
    for number, why in sorted(found.failures.items()):
        question = drafts[number].question if number in drafts else None
        result.reject(step, wanted[number], why, question)
    if found.surplus:
        result.note(step, Failure("surplus", f"{found.surplus} entries that were not requested"))


def _drop_repeated(result: SourceResult, drafts: dict[int, DraftPair], wanted: Mapping[int, Slot]) -> None:
    """Leave out questions that the source has already, word for word: judging them would be wasted."""
    seen: set[str] = set()
    for number, draft in sorted(drafts.items()):
        words = " ".join(draft.question.lower().split())
        if words in seen:
            why = Failure("near_duplicate", "the same question as an earlier one about this source")
            result.reject("generate", wanted[number], why, draft.question)
            del drafts[number]
        seen.add(words)
