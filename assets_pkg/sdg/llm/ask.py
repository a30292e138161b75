"""Everything that is asked about one source, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.llm.documents import Source
from assets_pkg.sdg.llm.extraction import extract
from assets_pkg.sdg.llm.judging import judge
from assets_pkg.sdg.llm.pairs import DraftPair, Slot, slots, write_pairs
from assets_pkg.sdg.llm.prompts import Prompts
from assets_pkg.sdg.llm.structured_batch import Failure, Gathered
from resources.chat_model import ChatSession
from storage.formats.qa_records import QAEvaluation, QAPair


@dataclass(frozen=True)
class Rejected:
    """Something asked for that is not in the result. ``number`` is the pair's; an extraction, and an entry
    that nobody asked for, have none."""

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
class Asked:
    """What came of one source: every slot is in ``pairs`` or in ``rejected``."""

    source: Source
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
        """Record something that is not one of the pairs asked for."""
        self.rejected.append(Rejected(self.source.source_id, step, why.reason, why.detail))


async def ask_about(source: Source, settings: SdgSettings, prompts: Prompts, session: ChatSession) -> Asked:
    """Extract, generate and judge. Without artifacts the pairs are written from the text alone.

    What is asked depends on this source only, so a change elsewhere in the corpus costs nothing here.

    Raises:
        ChatModelError: the run cannot go on.
    """
    asked = Asked(source)
    wanted = slots(settings, source.source_id)
    artifacts = await extract(source, settings, prompts, session)
    for why in dict.fromkeys(artifacts.failures.values()):
        asked.note("extract", why)
    found = await write_pairs(source, settings, prompts, session, wanted, artifacts)
    drafts = found.items
    _keep_failures(asked, "generate", found, wanted, {})
    _drop_repeated(asked, drafts, wanted)
    if drafts:
        verdicts = await judge(source, settings, prompts, session, drafts)
        _keep_failures(asked, "judge", verdicts, wanted, drafts)
        asked.pairs = [
            JudgedPair(wanted[number], drafts[number].record(wanted[number]), verdict.record())
            for number, verdict in sorted(verdicts.items.items())
        ]
    return asked


def _keep_failures(
    asked: Asked,
    step: str,
    found: Gathered[Any],
    wanted: Mapping[int, Slot],
    drafts: Mapping[int, DraftPair],
) -> None:
    for number, why in sorted(found.failures.items()):
        question = drafts[number].question if number in drafts else None
        asked.reject(step, wanted[number], why, question)
    if found.surplus:
        asked.note(step, Failure("surplus", f"{found.surplus} entries that nobody asked for"))


def _drop_repeated(asked: Asked, drafts: dict[int, DraftPair], wanted: Mapping[int, Slot]) -> None:
    """Leave out questions that the source already has word for word: no judge need be paid for them."""
    seen: set[str] = set()
    for number, draft in sorted(drafts.items()):
        words = " ".join(draft.question.lower().split())
        if words in seen:
            why = Failure("near_duplicate", "the same question as an earlier one about this source")
            asked.reject("generate", wanted[number], why, draft.question)
            del drafts[number]
        seen.add(words)
