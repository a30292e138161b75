"""A real HTTP server on loopback that speaks OpenAI's chat API and misbehaves on request.

Runs alone (``python scripted_endpoint.py``): it prints its port, answers ``POST /v1/chat/completions`` after
``latency`` seconds, the first ones not before ``together`` are there at once, and counts. ``POST /script`` takes
``{latency, together, rules}``; a rule is ``{match, do, times?, ...}``: the first whose ``match`` (a regular expression)
is found in the request's messages is applied. Answers are a function of the request, as those of a model at
temperature 0 are.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

WORDS = Path(__file__).with_name("words.txt").read_text("utf-8").split()
"""What answers are made of: fixed, so that they do not change with this file."""

REFUSAL = "I'm sorry, but I can't help with that."


class ScriptedEndpoint:
    """The server in a process of its own, and what it saw."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    def script(self, *rules: dict[str, Any], latency: float = 0.0, together: int = 1) -> None:
        """Replace the rules and forget the counts."""
        self._post("/script", {"rules": list(rules), "latency": latency, "together": together})

    def stats(self) -> dict[str, Any]:
        """``requests``, ``answered``, ``distinct`` (different messages seen), ``most_at_once``, ``by_step``,
        ``times`` (of arrival, seconds), ``bodies`` of the last ten requests, ``headers`` of the last."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats") as reply:
            return json.load(reply)

    def _post(self, path: str, value: Any) -> None:
        data = json.dumps(value).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data=data).close()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> ScriptedEndpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: Any, __: TracebackType | None) -> None:
        self.close()


# ---- what a well-behaved model answers ---------------------------------------------------------------------


def step_of(messages: list[dict[str, str]]) -> str:
    first = messages[1]["content"] if len(messages) > 1 else ""
    for step, mark in (
        ("artifacts", "worth asking about in a"),
        ("pairs", "search box"),
        ("evaluations", "judge"),
    ):
        if mark in first:
            return step
    return "other"


def good_answer(messages: list[dict[str, str]], model: str) -> dict[str, Any]:
    step = step_of(messages)
    text = "\n".join(message["content"] for message in messages if message["role"] == "user")
    seed = hashlib.sha256((model + text).encode()).hexdigest()
    source = messages[1]["content"] if len(messages) > 1 else ""
    numbers = [int(n) for n in re.findall(r"^(?:Pair|Type) (\d+)\b", messages[-1]["content"], re.MULTILINE)]
    segments = [int(n) for n in re.findall(r"^Segment (\d+)", source, re.MULTILINE)] or [1]
    return {step: [_entry(step, number, seed, segments) for number in numbers]}


def _entry(step: str, number: int, seed: str, segments: list[int]) -> dict[str, Any]:
    dice = random.Random(f"{seed} {number}")
    if step == "artifacts":
        return {"number": number, "found": [{"name": dice.choice(WORDS), "detail": "It is in the text."}]}
    if step == "evaluations":
        scored = {
            name: {"score": dice.randint(6, 10), "justification": "As I read it."}
            for name in ("relevance", "accuracy", "context_support", "clarity")
        }
        overall = {"score": dice.randint(6, 10), "assessment": "Fine."}
        return {"number": number, **scored, "overall": overall, "improvements": "None."}
    hop = {"segments": [dice.choice(segments)], "summary": "It says so."}
    question = " ".join(dice.choices(WORDS, k=8))
    return {
        "number": number,
        "question": f"{question} {seed[:8]} {number}?",
        "answer": "Because the text says so.",
        "complexity": dice.randint(2, 5),
        "hops": [hop],
    }


# ---- how it misbehaves -------------------------------------------------------------------------------------


def content_of(answer: dict[str, Any], rule: dict[str, Any] | None) -> tuple[str, str, str | None]:
    """Text, finish reason and refusal."""
    rule = rule or {"do": "answer"}
    what, entries, whole = rule["do"], next(iter(answer.values())), json.dumps(answer)
    fixed: dict[str, tuple[str, str, str | None]] = {
        "text": (rule.get("text", ""), rule.get("finish", "stop"), None),
        "refuse": ("", "stop", REFUSAL),
        "cut": (whole[: len(whole) * 2 // 3], "stop", None),
    }
    if what in fixed:
        return fixed[what]
    if what == "too_long" and len(entries) > rule["most"]:
        return whole[:60], "length", None
    _alter(entries, rule)
    text = json.dumps(answer)
    return (_in_prose(text) if what == "prose" else text), "stop", None


def _alter(entries: list[dict[str, Any]], rule: dict[str, Any]) -> None:
    if rule["do"] == "drop":
        del entries[-rule["count"] :]
    if rule["do"] == "extra":
        entries += [dict(entries[0], number=99), dict(entries[0])]
    if rule["do"] == "set":
        for entry in entries[: rule.get("count", 1)]:
            entry.update(rule["values"])


def _in_prose(text: str) -> str:
    draft = '{"pairs": [{"number": 1, "question": "a draft"}]}'
    return f"<think>Let me see: {draft} hm {{</think>Here it is:\n```json\n{text}\n```\nAnything else?"


class Server:
    def __init__(self) -> None:
        self.set([], 0.0, 1)

    def set(self, rules: list[dict[str, Any]], latency: float, together: int) -> None:
        self.rules, self.latency, self.together = rules, latency, together
        self.all_there = asyncio.Event()
        self.requests = self.answered = self.at_once = self.most_at_once = 0
        self.distinct: set[bytes] = set()
        self.by_step: dict[str, int] = {}
        self.times: list[float] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}

    def stats(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "answered": self.answered,
            "distinct": len(self.distinct),
            "most_at_once": self.most_at_once,
            "by_step": self.by_step,
            "times": self.times,
            "bodies": self.bodies,
            "headers": self.headers,
        }

    def rule_for(self, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any] | None:
        text = json.dumps(body["messages"]) + (" WITH_SCHEMA" if "response_format" in body else "")
        for rule in self.rules:
            if rule.get("times", 1) > 0 and re.search(rule["match"], text):
                if "times" in rule:
                    rule["times"] -= 1
                return rule
        return None

    async def chat(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        self.requests += 1
        self.times.append(asyncio.get_running_loop().time())
        self.bodies, self.headers = [*self.bodies[-9:], body], headers
        key = json.dumps([body["model"], body["messages"]], sort_keys=True).encode()
        self.distinct.add(hashlib.sha256(key).digest())
        step = step_of(body["messages"])
        self.by_step[step] = self.by_step.get(step, 0) + 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if self.at_once >= self.together:
            self.all_there.set()
        try:
            await self.all_there.wait()
            await asyncio.sleep(self.latency)
            return await self.reply(body, headers)
        finally:
            self.at_once -= 1

    async def reply(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        rule = self.rule_for(body, headers)
        what = rule["do"] if rule else "answer"
        if what == "hang":
            await asyncio.sleep(3600)
        if what == "status":
            message = rule.get("body", "scripted").replace(
                "{authorization}", headers.get("authorization", "")
            )
            error = json.dumps({"error": {"message": message}}).encode()
            return rule["status"], rule.get("headers", {}), error
        if what == "garbage":
            return 200, {}, b"<html>not json</html>"
        text, finish, refusal = content_of(good_answer(body["messages"], body["model"]), rule)
        self.answered += 1
        text = text.replace("{authorization}", headers.get("authorization", ""))
        message = {"role": "assistant", "content": text, "refusal": refusal}
        prompt = sum(len(turn["content"]) for turn in body["messages"]) // 4
        usage = {"prompt_tokens": prompt, "completion_tokens": len(text) // 4}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        value = {
            "id": "x",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
            **((rule or {}).get("fields") or {}),
        }
        return 200, {}, json.dumps(value).encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        data = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":  # the client was killed while it was sending
                return
            data += event.get("body", b"")
            if not event.get("more_body"):
                break
        status, headers, content = 200, {}, b"{}"
        if scope["path"] == "/script":
            script = json.loads(data)
            self.set(script["rules"], script["latency"], script["together"])
        elif scope["path"] == "/stats":
            content = json.dumps(self.stats()).encode()
        else:
            given = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
            status, headers, content = await self.chat(json.loads(data), given)
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        pairs.append((b"content-type", b"application/json"))
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": content})


def main() -> None:
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(Server(), log_level="error", lifespan="off", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
