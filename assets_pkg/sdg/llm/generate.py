"""Stage 0 with a chat model: generates the recipe's records from the documents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import orjson

from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.llm.ask import Rejected, SourceResult, process_source
from assets_pkg.sdg.llm.async_map import map_ordered
from assets_pkg.sdg.llm.dedup import QuestionIndex
from assets_pkg.sdg.llm.documents import SourceDocument, count_sources, read_sources
from assets_pkg.sdg.llm.prompts import load_prompts
from assets_pkg.sdg.llm.structured_batch import Failure
from assets_pkg.sdg.llm.tally import Tally
from resources.chat_model.budget import Usage
from resources.chat_model.client import ChatModel
from resources.encoders.base import Encoder
from storage.artifacts import Corpus, Passages
from storage.errors import RetuneError
from storage.files import write_json
from storage.formats.qa_records import QAEvaluations, SourceRecord, dump_record, write_generation_result
from storage.progress import Progress, no_progress

PREVIEW_DOCUMENTS = 3
_CHECK_RATE_AFTER = 64
"""Sources after which a run with less than half of ``min_accept_rate`` fails."""


class AcceptRateError(RetuneError):
    """Too few of the requested pairs are usable."""


@dataclass
class Preview:
    """The records of a few documents, the rejections, and the usage. Nothing is published."""

    records: list[SourceRecord] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)


def generate_with_llm(
    corpus: Corpus,
    passages: Passages,
    settings: SdgSettings,
    chat: ChatModel,
    encoder: Encoder,
    folder: Path,
    progress: Progress = no_progress,
) -> None:
    """Write ``qa_records.jsonl`` (one record per document or bundle, in corpus order), ``rejected.jsonl``,
    ``summary.json`` and, last, ``generation_result.json``.

    After an interruption it requests only what is not in the answer cache yet.

    Raises:
        ConsentError: text would leave the machine, and the settings do not allow it.
        EndpointError, BudgetReachedError: the run cannot continue; answers so far are cached.
        AcceptRateError: fewer than ``min_accept_rate`` of the requested pairs are usable.
    """
    tally = Tally(settings)
    total = count_sources(corpus, settings)
    with _Writer(folder, tally, encoder, settings) as writer:
        sources = read_sources(corpus, passages, settings)
        usage = asyncio.run(_run(sources, total, settings, chat, writer.write, progress))
    write_json(folder / "summary.json", tally.summary(usage))
    writer.check_accept_rate(settings.min_accept_rate)
    write_generation_result(folder, writer.records)


def preview(
    corpus: Corpus,
    passages: Passages,
    settings: SdgSettings,
    chat: ChatModel,
    encoder: Encoder,
    documents: int = PREVIEW_DOCUMENTS,
    progress: Progress = no_progress,
) -> Preview:
    """The records of the first few sources, to inspect pairs and scores; the answers are cached, so that a full run
    does not request them again."""
    made = Preview()
    questions = QuestionIndex(encoder, settings.similarity_threshold)

    def collect(batch: Sequence[SourceResult]) -> None:
        drop_near_duplicates(questions, batch)
        made.records += [record_of(result, settings) for result in batch]
        made.rejected += [why for result in batch for why in result.rejected]

    sources = islice(read_sources(corpus, passages, settings), documents)
    try:
        made.usage = asyncio.run(_run(sources, documents, settings, chat, collect, progress))
    finally:
        questions.close()
    return made


async def _run(
    sources: Iterator[SourceDocument],
    total: int,
    settings: SdgSettings,
    chat: ChatModel,
    consume: Callable[[Sequence[SourceResult]], None],
    progress: Progress,
) -> Usage:
    prompts = load_prompts(settings.prompts_path)
    done = 0
    async with chat.session(total) as session:

        async def work(source: SourceDocument) -> SourceResult:
            nonlocal done
            result = await process_source(source, settings, prompts, session)
            done += 1
            progress(done, total, "documents", calls=session.usage.calls, tokens=session.usage.tokens)
            return result

        parallel = settings.max_parallel_requests_for_gen
        await map_ordered(sources, work, consume, active=2 * parallel, window=max(64, 16 * parallel))
        return session.usage


def drop_near_duplicates(questions: QuestionIndex, batch: Sequence[SourceResult]) -> None:
    """Reject pairs whose question is a near duplicate of an earlier one, of any source."""
    all_pairs = [(result, judged) for result in batch for judged in result.pairs]
    verdicts = questions.add(
        [judged.pair.question for _, judged in all_pairs],
        [result.source.source_id for result, _ in all_pairs],
    )
    for (result, judged), duplicate in zip(all_pairs, verdicts, strict=True):
        if duplicate is not None:
            result.pairs.remove(judged)
            result.reject("dedup", judged.slot, Failure("near_duplicate", duplicate), judged.pair.question)


def record_of(result: SourceResult, settings: SdgSettings) -> SourceRecord:
    """The recipe's record of one source."""
    source = result.source
    return SourceRecord(
        file_name=source.file_names,
        source_id=source.source_id,
        text=source.text,
        chunks=source.chunks,
        deduplicated_qa_pairs=[judged.pair for judged in result.pairs],
        qa_evaluations=QAEvaluations(evaluations=[judged.evaluation for judged in result.pairs]),
        bundle_id=source.source_id if source.bundled else None,
        bundle_members=source.file_names if source.bundled else None,
        is_multi_doc=source.bundled,
        generator=settings.qa_generation_model,
    )


class _Writer:
    """Writes records and rejections in order, and counts them."""

    def __init__(self, folder: Path, tally: Tally, encoder: Encoder, settings: SdgSettings):
        self.records = folder / "qa_records.jsonl"
        self._tally = tally
        self._settings = settings
        self._questions = QuestionIndex(encoder, settings.similarity_threshold)
        (folder / "generation_result.json").unlink(missing_ok=True)
        self._record_stream = self.records.open("wb")
        self._rejected_stream = (folder / "rejected.jsonl").open("wb")

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._questions.close()
        self._record_stream.close()
        self._rejected_stream.close()

    def write(self, batch: Sequence[SourceResult]) -> None:
        drop_near_duplicates(self._questions, batch)
        for result in batch:
            self._tally.source()
            self._record_stream.write(dump_record(record_of(result, self._settings)))
            for judged in result.pairs:
                self._tally.accepted(result.source.source_id, judged)
            for why in result.rejected:
                self._tally.rejected(why)
                row = {key: value for key, value in asdict(why).items() if value is not None}
                self._rejected_stream.write(orjson.dumps(row) + b"\n")
        self._rejected_stream.flush()
        if self._tally.sources >= _CHECK_RATE_AFTER:
            self.check_accept_rate(self._settings.min_accept_rate / 2)

    def check_accept_rate(self, least: float) -> None:
        """Raise if fewer than ``least`` of the pairs requested so far are usable."""
        tally = self._tally
        if tally.accept_rate < least:
            raise AcceptRateError(
                f"only {tally.pairs} of {tally.asked} pairs asked for ({tally.accept_rate:.0%}) are usable; "
                f"min_accept_rate = {self._settings.min_accept_rate:.0%}. Why:\n{tally.table()}\n"
                f"Each one with its document: {self.records.with_name('rejected.jsonl')}"
            )
