"""Asking for numbered items and getting each of them, or the reason why not.

One answer may hold some good items and some bad ones. The good ones are kept; for the others the model is
told once what was wrong. An answer that ran out of room is asked again in halves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from assets_pkg.sdg.llm.prompts import Prompts
from resources.chat_model import CallFailedError, ChatAnswer, ChatSession, Message, Schema, json_values

I = TypeVar("I", bound="NumberedItem")  # noqa: E741

_QUOTED_BACK = 8000


class NumberedItem(BaseModel):
    """One entry of an answer."""

    number: int


@dataclass(frozen=True)
class Failure:
    """Why an item is missing: ``reason`` to count by, ``detail`` to read."""

    reason: str
    detail: str


@dataclass
class Gathered(Generic[I]):
    """Every number asked for is in ``items`` or in ``failures``; ``surplus`` entries were not asked for."""

    items: dict[int, I] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    surplus: int = 0

    def take(self, other: Gathered[I]) -> None:
        self.items |= other.items
        self.failures |= other.failures
        self.surplus += other.surplus


@dataclass(frozen=True)
class Step(Generic[I]):
    """One kind of question. ``key`` is the name of the list in the answer; ``check`` may refuse an item;
    ``missing`` is the reason to count an item by that is not in the answer, None if it need not be there;
    ``describe`` names an item in a repair."""

    model: str
    prompts: Prompts
    schema: Schema
    key: str
    item: type[I]
    prompt: Callable[[Sequence[int]], str]
    check: Callable[[I], Failure | None]
    missing: str | None
    describe: Callable[[int], str]


async def gather(session: ChatSession, step: Step[I], numbers: Sequence[int]) -> Gathered[I]:
    """Ask for the items ``numbers``.

    Raises:
        ChatModelError: the run cannot go on.
    """
    turns: list[Message] = [
        {"role": "system", "content": step.prompts.system},
        {"role": "user", "content": step.prompt(numbers)},
    ]
    answer = await _ask(session, step, turns)
    if isinstance(answer, ChatAnswer) and answer.truncated and len(numbers) > 1:
        return await _in_halves(session, step, numbers)
    found = _read(step, answer, numbers)
    if found.failures and isinstance(answer, ChatAnswer) and not _declined(found):
        turns += _repair(step, answer.text, found)
        again = await _ask(session, step, turns)
        found.take(_read(step, again, list(found.failures)))
        found.failures = {number: why for number, why in found.failures.items() if number not in found.items}
    return found


async def _in_halves(session: ChatSession, step: Step[I], numbers: Sequence[int]) -> Gathered[I]:
    middle = len(numbers) // 2
    found = await gather(session, step, numbers[:middle])
    found.take(await gather(session, step, numbers[middle:]))
    return found


async def _ask(session: ChatSession, step: Step[I], turns: list[Message]) -> ChatAnswer | Failure:
    try:
        return await session.ask(step.model, turns, step.schema)
    except CallFailedError as error:
        return Failure(error.reason, error.detail)


def _repair(step: Step[I], said: str, found: Gathered[I]) -> list[Message]:
    problems = "\n".join(f"- {why.detail}" for why in dict.fromkeys(found.failures.values()))
    wanted = "\n".join(step.describe(number) for number in found.failures)
    request = step.prompts.fill("repair", problems=problems, wanted=wanted)
    return [
        {"role": "assistant", "content": said[-_QUOTED_BACK:] or "(nothing)"},
        {"role": "user", "content": request},
    ]


def _declined(found: Gathered[Any]) -> bool:
    return any(why.reason == "refusal" for why in found.failures.values())


# ---- reading an answer -------------------------------------------------------------------------------------


def _read(step: Step[I], answer: ChatAnswer | Failure, numbers: Sequence[int]) -> Gathered[I]:
    """The good items of one answer, and a failure for each of the others."""
    if isinstance(answer, Failure):
        return Gathered(failures=dict.fromkeys(numbers, answer))
    entries = entries_of(answer.text, step.key)
    if entries is None:
        return Gathered(failures=dict.fromkeys(numbers, _without_entries(answer)))
    found: Gathered[I] = Gathered()
    for entry in entries:
        _sort_in(step, entry, set(numbers), found)
    reason = "truncated" if answer.truncated else step.missing
    if reason is not None:
        for number in set(numbers) - found.items.keys() - found.failures.keys():
            found.failures[number] = Failure(reason, f"number {number} is not in the answer")
    found.failures = dict(sorted(found.failures.items()))
    return found


def _sort_in(step: Step[I], entry: dict[str, Any], wanted: set[int], found: Gathered[I]) -> None:
    number = entry.get("number")
    if not isinstance(number, int) or number not in wanted or number in found.items:
        found.surplus += 1
        return
    try:
        item = step.item.model_validate(entry)
    except ValidationError as error:
        found.failures[number] = Failure("invalid_item", f"number {number}: {_first_problem(error)}")
        return
    problem = step.check(item)
    if problem is not None:
        found.failures[number] = Failure(problem.reason, f"number {number}: {problem.detail}")
        return
    found.failures.pop(number, None)
    found.items[number] = item


def entries_of(text: str, key: str) -> list[dict[str, Any]] | None:
    """The entries in an answer: of the list under ``key``, of a bare list, or those that stand alone in JSON
    that was cut off. None if there are none."""
    alone: list[dict[str, Any]] = []
    for value in json_values(text):
        entries = value.get(key) if isinstance(value, dict) else value
        if isinstance(entries, list):
            return [entry for entry in entries if isinstance(entry, dict)]
        if "number" in value:
            alone.insert(0, value)
    return alone or None


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
