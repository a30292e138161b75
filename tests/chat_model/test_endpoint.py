"""The client against a real server that misbehaves."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from scripted_endpoint import ScriptedEndpoint

from resources.chat_model import retries
from resources.chat_model.budget import Usage
from resources.chat_model.client import ChatAnswer, ChatModel, Message
from resources.chat_model.config import ChatConfig
from resources.chat_model.errors import (
    BudgetReachedError,
    CallFailedError,
    ChatModelError,
    ConsentError,
    EndpointError,
)
from resources.chat_model.limits import Pace
from resources.chat_model.structured import Schema

KEY = "nvapi-0123456789-secret"


class Answer(BaseModel):
    other: list[int]


SCHEMA = Schema.of("other", Answer)


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.02)


def messages_of(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def ask_all(
    config: ChatConfig, texts: Sequence[str], key: str | None = KEY, schema: Schema | None = None
) -> tuple[list[ChatAnswer | BaseException], Usage]:
    """Ask everything at once; answers or errors, in order."""

    async def main() -> tuple[list[ChatAnswer | BaseException], Usage]:
        async with ChatModel(config, key).session(documents=1) as session:
            calls = [session.ask("m", messages_of(text), schema) for text in texts]
            return await asyncio.gather(*calls, return_exceptions=True), session.usage

    return asyncio.run(main())


def make_config(endpoint: ScriptedEndpoint, folder: Path, **changes: Any) -> ChatConfig:
    return ChatConfig(base_url=endpoint.base_url, cache=folder / "answers.sqlite", **changes)


@pytest.mark.parametrize(
    "rule",
    [
        {"do": "status", "status": 500},
        {"do": "status", "status": 503, "headers": {"retry-after": "0"}},
        {"do": "status", "status": 429},
        {"do": "garbage"},
        {"do": "hang"},
    ],
    ids=lambda rule: f"{rule['do']}{rule.get('status', '')}",
)
def test_passing_trouble_is_retried(endpoint: ScriptedEndpoint, tmp_path: Path, rule: dict[str, Any]) -> None:
    endpoint.script({"match": "flaky", "times": 2, **rule})
    answers, usage = ask_all(make_config(endpoint, tmp_path, request_timeout_s=0.5), ["flaky"])
    assert isinstance(answers[0], ChatAnswer)
    assert (usage.requests, usage.calls) == (3, 1)
    assert endpoint.stats()["requests"] == 3


def test_retry_after_is_honoured_by_every_call(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script(
        {"match": "first", "do": "status", "status": 429, "headers": {"retry-after": "1"}, "times": 1}
    )

    async def main() -> None:
        async with ChatModel(make_config(endpoint, tmp_path)).session(1) as session:
            first = asyncio.create_task(session.ask("m", messages_of("first")))
            while endpoint_requests() == 0 or session._pace._paused_until == 0:
                await asyncio.sleep(0.01)
            await asyncio.gather(first, session.ask("m", messages_of("second")))

    def endpoint_requests() -> int:
        return endpoint.stats()["requests"]

    asyncio.run(main())
    first, *later = endpoint.stats()["times"]
    assert len(later) == 2
    assert min(later) - first >= 1.0


def test_a_call_without_answer_ends_at_its_deadline(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script({"match": "never", "do": "status", "status": 500})
    answers, _ = ask_all(make_config(endpoint, tmp_path, retry_deadline_s=0.3), ["never", "fine"])
    assert isinstance(answers[0], CallFailedError)
    assert answers[0].reason == "no_answer"
    assert isinstance(answers[1], ChatAnswer)


def test_an_endpoint_that_is_down_stops_the_run(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script({"match": ".", "do": "status", "status": 502})
    answers, _ = ask_all(make_config(endpoint, tmp_path, retry_deadline_s=0.3), ["a", "b", "c", "d"])
    assert any(isinstance(answer, EndpointError) for answer in answers)
    assert not any(isinstance(answer, ChatAnswer) for answer in answers)


def test_nobody_listening_stops_the_run(tmp_path: Path) -> None:
    config = ChatConfig("http://127.0.0.1:9/v1", tmp_path / "answers.sqlite", retry_deadline_s=0.1)
    answers, _ = ask_all(config, ["a"])
    assert isinstance(answers[0], EndpointError)
    assert "127.0.0.1 does not answer" in str(answers[0])


def test_a_retry_after_beyond_the_deadline_is_not_waited_for(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    endpoint.script({"match": ".", "do": "status", "status": 429, "headers": {"retry-after": "3600"}})
    answers, _ = ask_all(make_config(endpoint, tmp_path, retry_deadline_s=5), ["a"])
    assert isinstance(answers[0], CallFailedError)
    assert endpoint.stats()["requests"] == 1


@pytest.mark.parametrize(
    ("status", "says"), [(401, "NVIDIA_API_KEY"), (403, "NVIDIA_API_KEY"), (404, "base_url")]
)
def test_a_refused_key_or_unknown_model_stops_the_run(
    endpoint: ScriptedEndpoint, tmp_path: Path, status: int, says: str
) -> None:
    endpoint.script({"match": ".", "do": "status", "status": status})
    answers, _ = ask_all(make_config(endpoint, tmp_path, max_parallel=1), [str(n) for n in range(20)])
    assert all(isinstance(answer, EndpointError) for answer in answers)
    assert says in str(answers[0])
    assert endpoint.stats()["requests"] == 1


def test_redirects_are_not_followed(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    target = f"{endpoint.base_url}/other"
    endpoint.script({"match": ".", "do": "status", "status": 307, "headers": {"location": target}})
    answers, _ = ask_all(make_config(endpoint, tmp_path), ["a"])
    assert isinstance(answers[0], EndpointError)
    assert endpoint.stats()["requests"] == 1


@pytest.mark.slow
def test_concurrency_is_bounded_and_gives_way(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script(latency=0.02, together=6)
    ask_all(make_config(endpoint, tmp_path, max_parallel=6), [f"a{n}" for n in range(60)])
    assert endpoint.stats()["most_at_once"] == 6
    endpoint.script({"match": ".", "do": "status", "status": 429, "times": 30}, latency=0.02)
    answers, usage = ask_all(make_config(endpoint, tmp_path, max_parallel=6), [f"b{n}" for n in range(60)])
    assert all(isinstance(answer, ChatAnswer) for answer in answers)
    assert usage.requests == 90


def test_one_question_is_asked_once(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script(latency=0.05)
    answers, _ = ask_all(make_config(endpoint, tmp_path), ["same"] * 10)
    again, usage = ask_all(make_config(endpoint, tmp_path), ["same"])
    assert answers == again * 10
    assert (usage.requests, usage.reused) == (0, 1)
    assert endpoint.stats()["requests"] == 1


def test_answers_are_not_reused_on_request_nor_for_another_question(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    ask_all(make_config(endpoint, tmp_path), ["same"])
    ask_all(make_config(endpoint, tmp_path, reuse_answers=False), ["same"])
    ask_all(make_config(endpoint, tmp_path, temperature=0.1), ["same"])
    ask_all(make_config(endpoint, tmp_path), ["same"], schema=SCHEMA)
    assert endpoint.stats()["requests"] == 4


def test_schema_is_sent_where_the_endpoint_has_it(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    ask_all(make_config(endpoint, tmp_path), ["a"], schema=SCHEMA)
    (body,) = endpoint.stats()["bodies"]
    assert body["response_format"]["json_schema"] == {
        "name": "other",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"other": {"type": "array", "items": {"type": "integer"}}},
            "required": ["other"],
            "additionalProperties": False,
        },
    }


def test_schema_is_left_out_where_the_endpoint_refuses_it(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script({"match": "WITH_SCHEMA", "do": "status", "status": 400})
    config = make_config(endpoint, tmp_path, max_parallel=1)
    answers, _ = ask_all(config, ["a", "b", "c"], schema=SCHEMA)
    assert all(isinstance(answer, ChatAnswer) for answer in answers)
    stats = endpoint.stats()
    assert (stats["requests"], stats["answered"]) == (4, 3)


def test_a_bad_request_is_that_call_s_alone(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script({"match": "too long", "do": "status", "status": 400, "body": "context length exceeded"})
    answers, _ = ask_all(make_config(endpoint, tmp_path, max_parallel=1), ["too long", "b"], schema=SCHEMA)
    assert isinstance(answers[0], CallFailedError)
    assert "context length exceeded" in answers[0].detail
    assert isinstance(answers[1], ChatAnswer)
    assert "response_format" in endpoint.stats()["bodies"][-1]


NAN = float("nan")
COUNTS = ["many", "-5", -1, NAN, 1e300, 10**30, 2.5, [1], {}, True, None]


@pytest.mark.parametrize(
    "usage",
    ["many", [1, 2], -5, NAN, True, None, *({"prompt_tokens": n, "completion_tokens": n} for n in COUNTS)],
)
def test_a_usage_that_is_no_count_is_estimated(
    endpoint: ScriptedEndpoint, tmp_path: Path, usage: Any
) -> None:
    endpoint.script({"match": ".", "do": "text", "text": "x" * 400, "fields": {"usage": usage}})
    texts = [f"{n:03}" + "word " * 60 for n in range(20)]
    config = make_config(endpoint, tmp_path, max_parallel=1, max_tokens=1000, max_output_tokens=200)
    answers, used = ask_all(config, texts)
    assert isinstance(answers[0], ChatAnswer)
    assert (answers[0].prompt_tokens, answers[0].completion_tokens) == (len(texts[0]) // 4 + 1, 100)
    # 176 tokens each, and 276 in the worst case: the fifth request still fits.
    assert (used.requests, used.tokens) == (5, 5 * 176)
    assert isinstance(answers[-1], BudgetReachedError)


def test_counts_that_an_endpoint_writes_as_text_or_as_fractions_of_one_are_counts(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    usage = {"prompt_tokens": "7", "completion_tokens": 5.0, "cost": NAN}
    endpoint.script({"match": ".", "do": "answer", "fields": {"usage": usage}})
    (answer,), used = ask_all(make_config(endpoint, tmp_path), ["a"])
    assert isinstance(answer, ChatAnswer)
    assert (answer.prompt_tokens, answer.completion_tokens, used.tokens) == (7, 5, 12)


@pytest.mark.parametrize(
    "choices",
    [
        [],
        {},
        None,
        "choices",
        [None],
        [{}],
        [{"message": None}],
        [{"message": "text"}],
        [{"message": {"content": 5}}],
        [{"message": {"content": {"text": "a"}}}],
        [{"message": {"content": ["a"]}}],
        [{"message": {"content": [{"text": 5}]}}],
    ],
)
def test_what_is_no_chat_completion_ends_that_call_only(
    endpoint: ScriptedEndpoint, tmp_path: Path, choices: Any
) -> None:
    endpoint.script({"match": "bad", "do": "answer", "fields": {"choices": choices}})
    answers, _ = ask_all(make_config(endpoint, tmp_path, retry_deadline_s=0.1), ["bad", "good"])
    assert isinstance(answers[0], CallFailedError)
    assert "not a chat completion" in answers[0].detail
    assert isinstance(answers[1], ChatAnswer)


@pytest.mark.parametrize(
    ("message", "text", "refused"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}]}, "ab", False),
        ({"content": None, "refusal": {"why": "no"}}, "", True),
        ({"content": "a\ud83d"}, "a\ufffd", False),
        ({"content": [{"text": "\udc00"}]}, "\ufffd", False),
    ],
)
def test_what_an_answer_may_hold(
    endpoint: ScriptedEndpoint, tmp_path: Path, message: Any, text: str, refused: bool
) -> None:
    choice = {"message": message, "finish_reason": ["odd"]}
    endpoint.script({"match": ".", "do": "answer", "fields": {"choices": [choice]}})
    (answer,), _ = ask_all(make_config(endpoint, tmp_path), ["a"])
    assert isinstance(answer, ChatAnswer)
    assert (answer.text, answer.refused, answer.truncated) == (text, refused, False)


@pytest.mark.parametrize("asked", ["inf", "nan", "1e400", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_an_absurd_retry_after_does_not_end_a_call(
    endpoint: ScriptedEndpoint, tmp_path: Path, asked: str
) -> None:
    rule = {"do": "status", "status": 429, "headers": {"retry-after": asked}}
    endpoint.script({"match": ".", "times": 2, **rule})
    (answer,), used = ask_all(make_config(endpoint, tmp_path), ["a"])
    assert isinstance(answer, ChatAnswer)
    assert used.requests == 3


# ---- limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ({"max_calls": 10}, "max_calls = 10"),
        ({"max_tokens": 2000, "max_output_tokens": 100}, "max_tokens = 2000"),
    ],
)
def test_budget_is_never_passed(
    endpoint: ScriptedEndpoint, tmp_path: Path, limit: dict[str, int], says: str
) -> None:
    endpoint.script(latency=0.01)
    texts = [f"{n} " + "word " * 60 for n in range(60)]
    answers, usage = ask_all(make_config(endpoint, tmp_path, max_parallel=8, **limit), texts)
    answered = [answer for answer in answers if isinstance(answer, ChatAnswer)]
    stopped = [answer for answer in answers if isinstance(answer, BudgetReachedError)]
    assert len(answered) + len(stopped) == 60
    assert says in str(stopped[0])
    assert endpoint.stats()["requests"] == usage.requests == len(answered)
    assert usage.requests <= limit.get("max_calls", 60)
    assert usage.tokens <= limit.get("max_tokens", usage.tokens)
    assert usage.tokens + 200 > limit.get("max_tokens", 0)
    same = make_config(endpoint, tmp_path, max_output_tokens=limit.get("max_output_tokens", 8192))
    _, usage = ask_all(same, texts)
    assert usage.requests == len(stopped)


def test_cost_is_counted_and_limited(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    prices = {"input_price": 1e4, "output_price": 2e4, "max_output_tokens": 100}
    config = make_config(endpoint, tmp_path, max_cost=10.0, max_parallel=1, **prices)
    _, usage = ask_all(config, [f"{n} " + "word " * 60 for n in range(60)])
    assert usage.cost == pytest.approx(usage.prompt_tokens * 0.01 + usage.completion_tokens * 0.02)
    assert 5.0 < usage.cost <= 10.0


def test_request_rate_is_kept(
    endpoint: ScriptedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Counted from when the first request asks to be sent: on a busy machine it may arrive late, the others with it.
    asked: list[float] = []
    wait = Pace.wait

    async def observed(pace: Pace, tokens: int) -> None:
        asked.append(time.monotonic())  # the clock of the endpoint's loop, too
        await wait(pace, tokens)

    monkeypatch.setattr(Pace, "wait", observed)
    ask_all(make_config(endpoint, tmp_path, requests_per_minute=1200), [f"a{n}" for n in range(11)])
    times = endpoint.stats()["times"]
    assert len(times) == 11
    assert all(at - asked[0] >= number * 0.05 - 0.005 for number, at in enumerate(times))


# ---- what must not leak ------------------------------------------------------------------------------------


def test_without_consent_nothing_is_sent(tmp_path: Path) -> None:
    config = ChatConfig("https://integrate.api.nvidia.com/v1", tmp_path / "answers.sqlite")

    async def main() -> None:
        async with ChatModel(config, KEY).session(documents=12):
            raise AssertionError("a session without consent")

    with pytest.raises(
        ConsentError, match=r"12 documents would be sent to integrate\.api\.nvidia\.com"
    ) as caught:
        asyncio.run(main())
    assert "approved_endpoints=[integrate.api.nvidia.com]" in str(caught.value)
    assert not config.cache.exists()


def test_a_remote_endpoint_needs_a_key(tmp_path: Path) -> None:
    config = ChatConfig(
        "https://example.org/v1", tmp_path / "a", api_key_env="MY_KEY", allow_corpus_egress=True
    )

    async def main(key: str | None) -> None:
        async with ChatModel(config, key).session(1):
            raise AssertionError("a session without a key")

    with pytest.raises(EndpointError, match="MY_KEY is not set"):
        asyncio.run(main(None))
    with pytest.raises(EndpointError, match="MY_KEY holds characters") as caught:
        asyncio.run(main("sec\nret"))
    assert "ret" not in str(caught.value).replace("characters", "")


def test_loopback_is_reached_without_the_environment_s_proxy_or_account(
    endpoint: ScriptedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-somebody")
    answers, _ = ask_all(make_config(endpoint, tmp_path), ["a"])
    assert isinstance(answers[0], ChatAnswer)
    assert "org-of-somebody" not in str(endpoint.stats()["headers"])
    assert f"Bearer {KEY}" in str(endpoint.stats()["headers"])


@pytest.mark.parametrize(
    "rule",
    [
        {"do": "status", "status": 401, "body": "Incorrect API key provided: {authorization}"},
        {"do": "status", "status": 400, "body": "bad header {authorization}"},
        {"do": "text", "text": "you sent {authorization}"},
        {"do": "answer"},
    ],
    ids=["refused", "failed", "echoed", "answered"],
)
def test_the_key_is_nowhere(
    endpoint: ScriptedEndpoint, tmp_path: Path, rule: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.script({"match": ".", **rule})
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    answers, _ = ask_all(make_config(endpoint, tmp_path), ["a"])
    for answer in answers:
        shown = repr(answer)
        if isinstance(answer, BaseException):
            shown += "".join(
                traceback.TracebackException.from_exception(answer, capture_locals=True).format()
            )
        assert KEY not in shown
    assert KEY not in caplog.text
    assert all(KEY not in repr(record.__dict__) for record in caplog.records)
    assert all(KEY.encode() not in file.read_bytes() for file in tmp_path.rglob("*"))
    assert KEY in str(endpoint.stats()["headers"])


def test_a_model_can_be_printed_but_not_pickled(tmp_path: Path) -> None:
    import pickle

    model = ChatModel(ChatConfig("http://127.0.0.1/v1", tmp_path / "a"), KEY)
    assert KEY not in repr(model)
    assert "key set" in repr(model)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(model)


def test_every_fatal_error_is_a_chat_model_error() -> None:
    assert all(issubclass(kind, ChatModelError) for kind in (ConsentError, EndpointError, BudgetReachedError))
