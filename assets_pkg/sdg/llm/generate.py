"""Stage 0 with a chat model: sources in, the recipe's records out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import orjson

from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.llm.ask import Asked, Rejected, ask_about
from assets_pkg.sdg.llm.async_map import run_in_order
from assets_pkg.sdg.llm.dedup import QuestionIndex
from assets_pkg.sdg.llm.documents import Source, count_sources, read_sources
from assets_pkg.sdg.llm.prompts import load_prompts
from assets_pkg.sdg.llm.structured_batch import Failure
from assets_pkg.sdg.llm.tally import Tally
from resources.chat_model import ChatModel, Usage
from resources.encoders.base import Encoder
from storage.artifacts import Corpus, Passages
from storage.errors import RetuneError
from storage.files import write_json
from storage.formats.qa_records import QAEvaluations, SourceRecord, dump_record
from storage.progress import Progress, no_progress

PREVIEW_DOCUMENTS = 3
_HOPELESS_AFTER = 64  # sources after which a run with half the wanted share of usable pairs is given up


class AcceptRateError(RetuneError):
    """Too few of the pairs asked for could be used."""


@dataclass
class Preview:
    """A few documents' records, what was rejected, and what it took. Nothing is published."""

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

    Run again after an interruption it asks only for what is not in the answer cache yet.

    Raises:
        ConsentError: text would leave the machine and nobody allowed it.
        EndpointError, BudgetReachedError: the run cannot go on; answers so far are kept.
        AcceptRateError: fewer than ``min_accept_rate`` of the pairs asked for were usable.
    """
    tally = Tally(settings)
    total = count_sources(corpus, settings)
    with _Writer(folder, tally, encoder, settings) as writer:
        sources = read_sources(corpus, passages, settings)
        usage = asyncio.run(_run(sources, total, settings, chat, writer.write, progress))
    write_json(folder / "summary.json", tally.summary(usage))
    writer.check_accept_rate(settings.min_accept_rate)
    result = {"schema_version": 1, "dataset_name": "synthetic_qa", "output_path": writer.records.name}
    write_json(folder / "generation_result.json", result, ensure_ascii=True)


def preview(
    corpus: Corpus,
    passages: Passages,
    settings: SdgSettings,
    chat: ChatModel,
    encoder: Encoder,
    documents: int = PREVIEW_DOCUMENTS,
    progress: Progress = no_progress,
) -> Preview:
    """The records of the first few sources, for a look at pairs and scores; the answers are kept, so that the
    real run does not ask for them again."""
    result = Preview()
    questions = QuestionIndex(encoder, settings.similarity_threshold)

    def collect(batch: Sequence[Asked]) -> None:
        drop_near_duplicates(questions, batch)
        result.records += [record_of(asked, settings) for asked in batch]
        result.rejected += [why for asked in batch for why in asked.rejected]

    sources = islice(read_sources(corpus, passages, settings), documents)
    try:
        result.usage = asyncio.run(_run(sources, documents, settings, chat, collect, progress))
    finally:
        questions.close()
    return result


async def _run(
    sources: Iterator[Source],
    total: int,
    settings: SdgSettings,
    chat: ChatModel,
    consume: Callable[[Sequence[Asked]], None],
    progress: Progress,
) -> Usage:
    prompts = load_prompts(settings.prompts_path)
    done = 0
    async with chat.session(total) as session:

        async def work(source: Source) -> Asked:
            nonlocal done
            asked = await ask_about(source, settings, prompts, session)
            done += 1
            progress(done, total, "documents", calls=session.usage.calls, tokens=session.usage.tokens)
            return asked

        parallel = settings.max_parallel_requests_for_gen
        await run_in_order(sources, work, consume, active=2 * parallel, window=max(64, 16 * parallel))
        return session.usage


def drop_near_duplicates(questions: QuestionIndex, batch: Sequence[Asked]) -> None:
    """Move pairs whose question is too like an earlier one, of any source, to the rejected."""
    all_pairs = [(asked, judged) for asked in batch for judged in asked.pairs]
    verdicts = questions.add(
        [judged.pair.question for _, judged in all_pairs], [asked.source.source_id for asked, _ in all_pairs]
    )
    for (asked, judged), twin in zip(all_pairs, verdicts, strict=True):
        if twin is not None:
            asked.pairs.remove(judged)
            asked.reject("dedup", judged.slot, Failure("near_duplicate", twin), judged.pair.question)


def record_of(asked: Asked, settings: SdgSettings) -> SourceRecord:
    """The recipe's record of one source."""
    source = asked.source
    return SourceRecord(
        file_name=source.file_names,
        source_id=source.source_id,
        text=source.text,
        chunks=source.chunks,
        deduplicated_qa_pairs=[judged.pair for judged in asked.pairs],
        qa_evaluations=QAEvaluations(evaluations=[judged.evaluation for judged in asked.pairs]),
        bundle_id=source.source_id if source.bundled else None,
        bundle_members=source.file_names if source.bundled else None,
        is_multi_doc=source.bundled,
        generator=settings.qa_generation_model,
    )


class _Writer:
    """Writes records and rejections as they come, in order, and counts them."""

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

    def write(self, batch: Sequence[Asked]) -> None:
        drop_near_duplicates(self._questions, batch)
        for asked in batch:
            self._tally.source()
            self._record_stream.write(dump_record(record_of(asked, self._settings)))
            for judged in asked.pairs:
                self._tally.accepted(asked.source.source_id, judged)
            for why in asked.rejected:
                self._tally.rejected(why)
                row = {key: value for key, value in asdict(why).items() if value is not None}
                self._rejected_stream.write(orjson.dumps(row) + b"\n")
        self._rejected_stream.flush()
        if self._tally.sources >= _HOPELESS_AFTER:
            self.check_accept_rate(self._settings.min_accept_rate / 2)

    def check_accept_rate(self, least: float) -> None:
        """Raise if fewer than ``least`` of the pairs asked for so far are usable."""
        tally = self._tally
        if tally.accept_rate < least:
            raise AcceptRateError(
                f"only {tally.pairs} of {tally.asked} pairs asked for ({tally.accept_rate:.0%}) are usable; "
                f"min_accept_rate = {self._settings.min_accept_rate:.0%}. Why:\n{tally.table()}\n"
                f"Each one with its document: {self.records.with_name('rejected.jsonl')}"
            )
