"""The third request about a source: scores of each pair, judged by the segments it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.llm.documents import SourceDocument
from assets_pkg.sdg.llm.pairs import DraftPair
from assets_pkg.sdg.llm.prompts import Prompts
from assets_pkg.sdg.llm.structured_batch import BatchRequest, BatchResult, Failure, NumberedItem, ask_batch
from resources.chat_model.client import ChatSession
from resources.chat_model.structured import Schema
from storage.formats.qa_records import Judgement, OverallJudgement, QAEvaluation

_Score = Annotated[float, Field(ge=1, le=10)]


class _Scored(BaseModel):
    score: _Score
    justification: str

    def record(self) -> Judgement:
        return Judgement(score=self.score, justification=self.justification)


class _Overall(BaseModel):
    score: _Score
    assessment: str


class Verdict(NumberedItem):
    """The judge's scores of one pair, 1 to 10."""

    relevance: _Scored
    accuracy: _Scored
    context_support: _Scored
    clarity: _Scored
    overall: _Overall
    improvements: str

    def record(self) -> QAEvaluation:
        """The verdict in the record format."""
        return QAEvaluation(
            relevance=self.relevance.record(),
            accuracy=self.accuracy.record(),
            context_support=self.context_support.record(),
            clarity=self.clarity.record(),
            overall=OverallJudgement(score=self.overall.score, assessment=self.overall.assessment),
            improvements=self.improvements,
        )


class _Answer(BaseModel):
    evaluations: list[Verdict]


# The names and docstrings of these classes are in the schema, and with it in the keys of cached answers.
SCHEMA = Schema.of("evaluations", _Answer)


async def judge(
    source: SourceDocument,
    settings: SdgSettings,
    prompts: Prompts,
    session: ChatSession,
    drafts: Mapping[int, DraftPair],
) -> BatchResult[Verdict]:
    """A verdict on every draft, or the reason why there is none. Only the segments that the drafts name are
    sent again."""

    def describe(number: int) -> str:
        draft = drafts[number]
        segments = ", ".join(map(str, draft.segments()))
        return f"Pair {number} (segments {segments})\nQuestion: {draft.question}\nAnswer: {draft.answer}"

    def fill(numbers: Sequence[int]) -> str:
        named = sorted({segment for number in numbers for segment in drafts[number].segments()})
        return prompts.fill(
            "judge",
            pairs="\n".join(map(describe, numbers)),
            text="\n".join(map(source.segment, named)),
        )

    def no_check(item: Verdict) -> Failure | None:
        return None

    request = BatchRequest(
        model=settings.quality_judge_model,
        prompts=prompts,
        schema=SCHEMA,
        key="evaluations",
        item=Verdict,
        prompt=fill,
        check=no_check,
        missing="judge_mismatch",
        describe=lambda number: f"Pair {number}",
    )
    return await ask_batch(session, request, sorted(drafts))
