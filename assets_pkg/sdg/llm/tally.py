"""Counts of a run's results: the figures of ``summary.json``."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Any

from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.llm.ask import JudgedPair, Rejected
from resources.chat_model.budget import Usage
from storage.digests import digest_text

_SAMPLES = 10


class Tally:
    """Running counts, in memory that does not grow with the corpus."""

    def __init__(self, settings: SdgSettings):
        self._settings = settings
        self.sources = 0
        self.pairs = 0
        self.reasons: Counter[str] = Counter()
        self._scores: Counter[int] = Counter()
        self._types: dict[str, Counter[str]] = {"query_type": Counter(), "reasoning_type": Counter()}
        self._samples: list[tuple[int, int, dict[str, Any]]] = []

    @property
    def asked(self) -> int:
        return self.sources * self._settings.num_pairs

    @property
    def accept_rate(self) -> float:
        return self.pairs / self.asked if self.asked else 0.0

    def source(self) -> None:
        self.sources += 1

    def accepted(self, source_id: str, judged: JudgedPair) -> None:
        self.pairs += 1
        self._scores[int(judged.evaluation.overall.score)] += 1
        self._types["query_type"][judged.pair.query_type] += 1
        self._types["reasoning_type"][judged.pair.reasoning_type] += 1
        sample = {
            "source_id": source_id,
            "question": judged.pair.question,
            "answer": judged.pair.answer,
            "query_type": judged.pair.query_type,
            "reasoning_type": judged.pair.reasoning_type,
            "score": judged.evaluation.overall.score,
        }
        rank = -int(digest_text(f"{source_id} {judged.slot.number}"), 16)
        entry = (rank, -self.pairs, sample)
        if len(self._samples) < _SAMPLES:
            heapq.heappush(self._samples, entry)
        else:
            heapq.heappushpop(self._samples, entry)

    def rejected(self, why: Rejected) -> None:
        """Count a missing pair by its reason; rejections that are no pair are counted under their step."""
        self.reasons[why.reason if why.number is not None else f"{why.step}: {why.reason}"] += 1

    def table(self) -> str:
        """The reasons with their counts, most frequent first."""
        width = max((len(reason) for reason in self.reasons), default=0)
        return "\n".join(f"  {reason:<{width}}  {count}" for reason, count in self.reasons.most_common())

    def summary(self, usage: Usage) -> dict[str, Any]:
        return {
            "generator": self._settings.qa_generation_model,
            "sources": self.sources,
            "pairs": self.pairs,
            "pairs_asked": self.asked,
            "accept_rate": round(self.accept_rate, 4),
            "rejected": dict(sorted(self.reasons.items())),
            "calls": usage.calls,
            "requests": usage.requests,
            "reused_answers": usage.reused,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cost": usage.cost,
            "score_histogram": {str(score): self._scores[score] for score in range(1, 11)},
            "query_types": self._by_type("query_type", self._settings.query_type_counts()),
            "reasoning_types": self._by_type("reasoning_type", self._settings.reasoning_type_counts()),
            "sample_pairs": [sample for _, _, sample in sorted(self._samples, reverse=True)],
        }

    def _by_type(self, kind: str, counts: dict[str, int]) -> dict[str, dict[str, int]]:
        made = self._types[kind]
        return {name: {"asked": count * self.sources, "pairs": made[name]} for name, count in counts.items()}
