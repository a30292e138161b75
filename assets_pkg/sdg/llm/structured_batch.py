"""Requests for a list of numbered items: each item comes back, or the reason why it is missing.

The valid items of an answer are kept; for the others one repair request says what was wrong. A truncated answer is
requested again in two halves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from assets_pkg.sdg.llm.prompts import Prompts
from resources.chat_model.client import ChatAnswer, ChatSession, Message
from resources.chat_model.errors import CallFailedError
from resources.chat_model.structured import Schema, json_values

I = TypeVar("I", bound="NumberedItem")  # noqa: E741

_QUOTED_CHARS = 8000
"""Characters of a bad answer that its repair request quotes."""


class NumberedItem(BaseModel):
    """One entry of an answer."""

    number: int


@dataclass(frozen=True)
class Failure:
    """Why an item is missing: ``reason`` is the category that is counted, ``detail`` the explanation (which the
    repair request quotes)."""

    reason: str
    detail: str


@dataclass
class BatchResult(Generic[I]):
    """Every requested number is in ``items`` or in ``failures``; ``surplus`` counts entries that were not requested."""

    items: dict[int, I] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    surplus: int = 0

    def merge(self, other: BatchResult[I]) -> None:
        self.items |= other.items
        self.failures |= other.failures
        self.surplus += other.surplus


@dataclass(frozen=True)
class BatchRequest(Generic[I]):
    """One kind of request.

    ``key``: the name of the list in the answer. ``prompt``: the prompt for some numbers. ``check``: why an item is
    refused, or None. ``missing``: the reason that is counted for an item that is not in the answer, None if it may be
    missing. ``describe``: names an item in a repair request.
    """

    model: str
    prompts: Prompts
    schema: Schema
    key: str
    item: type[I]
    prompt: Callable[[Sequence[int]], str]
    check: Callable[[I], Failure | None]
    missing: str | None
    describe: Callable[[int], str]


async def ask_batch(session: ChatSession, request: BatchRequest[I], numbers: Sequence[int]) -> BatchResult[I]:
    """Request the items ``numbers``.

    Raises:
        ChatModelError: the run cannot continue.
    """
    messages: list[Message] = [
        {"role": "system", "content": request.prompts.system},
        {"role": "user", "content": request.prompt(numbers)},
    ]
    answer = await _ask(session, request, messages)
    if isinstance(answer, ChatAnswer) and answer.truncated and len(numbers) > 1:
        return await _in_halves(session, request, numbers)
    found = _parse(request, answer, numbers)
    if found.failures and isinstance(answer, ChatAnswer) and not _declined(found):
        messages += _repair(request, answer.text, found)
        again = await _ask(session, request, messages)
        found.merge(_parse(request, again, list(found.failures)))
        found.failures = {number: why for number, why in found.failures.items() if number not in found.items}
    return found


async def _in_halves(
    session: ChatSession, request: BatchRequest[I], numbers: Sequence[int]
) -> BatchResult[I]:
    middle = len(numbers) // 2
    found = await ask_batch(session, request, numbers[:middle])
    found.merge(await ask_batch(session, request, numbers[middle:]))
    return found


async def _ask(
    session: ChatSession, request: BatchRequest[I], messages: list[Message]
) -> ChatAnswer | Failure:
    try:
        return await session.ask(request.model, messages, request.schema)
    except CallFailedError as error:
        return Failure(error.reason, error.detail)


def _repair(request: BatchRequest[I], text: str, found: BatchResult[I]) -> list[Message]:
    problems = "\n".join(f"- {why.detail}" for why in dict.fromkeys(found.failures.values()))
    wanted = "\n".join(request.describe(number) for number in found.failures)
    repair = request.prompts.fill("repair", problems=problems, wanted=wanted)
    return [
        {"role": "assistant", "content": text[-_QUOTED_CHARS:] or "(nothing)"},
        {"role": "user", "content": repair},
    ]


def _declined(found: BatchResult[Any]) -> bool:
    return any(why.reason == "refusal" for why in found.failures.values())


# ---- reading an answer -------------------------------------------------------------------------------------


def _parse(request: BatchRequest[I], answer: ChatAnswer | Failure, numbers: Sequence[int]) -> BatchResult[I]:
    """The valid items of one answer, and a failure for each of the others."""
    if isinstance(answer, Failure):
        return BatchResult(failures=dict.fromkeys(numbers, answer))
    entries = entries_of(answer.text, request.key)
    if entries is None:
        return BatchResult(failures=dict.fromkeys(numbers, _without_entries(answer)))
    found: BatchResult[I] = BatchResult()
    for entry in entries:
        _add_entry(request, entry, set(numbers), found)
    reason = "truncated" if answer.truncated else request.missing
    if reason is not None:
        for number in set(numbers) - found.items.keys() - found.failures.keys():
            found.failures[number] = Failure(reason, f"number {number} is not in the answer")
    found.failures = dict(sorted(found.failures.items()))
    return found


def _add_entry(
    request: BatchRequest[I], entry: dict[str, Any], wanted: set[int], found: BatchResult[I]
) -> None:
    number = entry.get("number")
    if not isinstance(number, int) or number not in wanted or number in found.items:
        found.surplus += 1
        return
    try:
        item = request.item.model_validate(entry)
    except ValidationError as error:
        found.failures[number] = Failure("invalid_item", f"number {number}: {_first_problem(error)}")
        return
    problem = request.check(item)
    if problem is not None:
        found.failures[number] = Failure(problem.reason, f"number {number}: {problem.detail}")
        return
    found.failures.pop(number, None)
    found.items[number] = item


def entries_of(text: str, key: str) -> list[dict[str, Any]] | None:
    """The entries in an answer: of the list under ``key``, of a bare list, or the complete ones of truncated JSON.
    None if there are none."""
    single: list[dict[str, Any]] = []
    for value in json_values(text):
        entries = value.get(key) if isinstance(value, dict) else value
        if isinstance(entries, list):
            return [entry for entry in entries if isinstance(entry, dict)]
        if "number" in value:
            single.insert(0, value)
    return single or None


def _without_entries(answer: ChatAnswer) -> Failure:
    if answer.refused or _sounds_like_refusal(answer.text):
        return Failure("refusal", f"the model declined: {_short(answer.text)}")
    if not answer.text.strip():
        return Failure("empty_answer", "the answer is empty")
    if answer.truncated:
        return Failure("truncated", "the answer reached max_output_tokens before it was whole")
    return Failure("invalid_json", f"the answer is not the JSON asked for: {_short(answer.text)}")


def _sounds_like_refusal(text: str) -> bool:
    start = text.rpartition("</think>")[2].strip().lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return start.startswith(
        ("i'm sorry", "i am sorry", "sorry,", "i can't", "i cannot", "i'm unable", "i am unable")
    )


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words[:120] + ("..." if len(words) > 120 else "")


def _first_problem(error: ValidationError) -> str:
    detail = error.errors()[0]
    return f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
