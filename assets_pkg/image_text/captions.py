"""Captions of images, with which a text-only model can find them: the nearest named colour, or a vision model's text.

The vision model is any OpenAI-compatible chat endpoint that takes ``image_url`` parts. Each request holds one image.
Consent, limits, budget and answer cache are those of the generation of questions.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from assets_pkg.config.sections.image_text import CaptionSettings
from assets_pkg.image_text.colour import nearest_colour
from assets_pkg.image_text.errors import BenchmarkError
from assets_pkg.image_text.pairs import COLOURS, Pair
from resources.chat_model.client import ChatAnswer, ChatModel, ChatSession, Message
from resources.chat_model.consent import Sent
from resources.chat_model.errors import CallFailedError
from resources.encoders.items import data_uri
from storage.files import write_json
from storage.progress import Progress, no_progress

NEAREST = "A plain image of the colour {name}."

CAPTIONERS = {
    "none": "no captions: only models that embed images are measured on the images",
    "nearest_colour": "captions by rule, without a model: the name of the CSS colour that is nearest to the exact "
    "colour of the pixels",
    "vlm": "captions by a vision model",
}
"""What each captioner is, in words for a report."""

SENT = Sent(
    what="{count} images",
    noun="images",
    url_setting="image_text.caption_base_url",
    otherwise="image_text.captioner=none",
)

REASONING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
OPEN_REASONING = re.compile(r"<(think|thinking|reasoning)>", re.IGNORECASE)
END_OF_REASONING = re.compile(r".*</(think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)
REFUSAL = re.compile(
    r"(i['\u2019]?m sorry|i am sorry|sorry,|i apologi[sz]e|as an ai\b|unfortunately, i\b"
    r"|i (can['\u2019]?t|cannot|can not|am unable|am not able)\b|i['\u2019]m (unable|not able)\b)",
    re.IGNORECASE,
)
"""How an answer begins that declines in words; a caption does not speak of its writer."""

REFUSED, CUT, EMPTY, ONLY_REASONING = "refused", "cut at caption_max_tokens", "empty answer", "only reasoning"
KINDS = (REFUSED, CUT, EMPTY, ONLY_REASONING)
"""Why an answer gives no caption."""


@dataclass(frozen=True)
class Caption:
    """The caption of one image. ``caption`` is None where there is none, and ``reason`` then says why. ``reasoning``: a
    block of reasoning before the caption was removed."""

    pair_id: str
    caption: str | None
    reason: str | None = None
    reasoning: bool = False


def captioning_model(settings: CaptionSettings, chat: ChatModel) -> ChatModel:
    """The vision model of the settings: ``chat`` at ``caption_base_url``, with temperature 0, so that a caption is as
    reproducible as the endpoint allows."""
    return chat.at(
        settings.caption_base_url,
        temperature=0.0,
        max_output_tokens=settings.caption_max_tokens,
        sent=SENT,
    )


def check_captioner(captioner: str, pairs: str) -> None:
    """Refuse to name colours in images that are not of one colour, before any is read.

    Raises:
        BenchmarkError: it says which captioners there are for such images.
    """
    if captioner == "nearest_colour" and pairs != COLOURS:
        raise BenchmarkError(
            f"image_text.captioner=nearest_colour only reads the colour of plain swatches ({COLOURS}), and "
            f"image_text.pairs is {pairs}: set image_text.captioner=vlm for captions by a vision model "
            "(image_text.caption_model at image_text.caption_base_url), or image_text.captioner=none to measure the "
            "images alone"
        )


def write_captions(
    pairs: Sequence[Pair],
    settings: CaptionSettings,
    chat: ChatModel | None,
    folder: Path,
    progress: Progress = no_progress,
) -> None:
    """Caption every image and write a `Captions` folder. ``chat`` is needed for captioner ``vlm`` only.

    Raises:
        BenchmarkError: ``nearest_colour`` for an image of more than one colour; or not one caption was made.
        ChatModelError: the endpoint cannot be used: no consent, no key, not reachable, budget reached.
    """
    started = time.monotonic()
    usage: dict[str, Any] = {}
    if settings.captioner == "vlm":
        assert chat is not None
        captions, usage = asyncio.run(_ask_all(pairs, settings, chat, progress))
    else:
        captions = _named(pairs) if settings.captioner == "nearest_colour" else []
    failed = [caption for caption in captions if caption.caption is None]
    if captions and len(failed) == len(captions):
        raise BenchmarkError(
            f"{settings.caption_model} captioned none of {len(captions)} images: {failed[0].reason}"
        )
    lines = [json.dumps(_row(caption), ensure_ascii=False) for caption in captions]
    (folder / "captions.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")
    summary = {
        "captioner": settings.captioner,
        "captions": len(captions) - len(failed),
        "failed": len(failed),
        **{f"failed_{reason.replace(' ', '_')}": n for reason, n in _reasons(failed).items()},
        **({"with_reasoning": reasoning} if (reasoning := sum(each.reasoning for each in captions)) else {}),
        "seconds": time.monotonic() - started,
        **({"model": settings.caption_model, **usage} if settings.captioner == "vlm" else {}),
    }
    write_json(folder / "summary.json", summary, indent=None, ensure_ascii=True)


def _row(caption: Caption) -> dict[str, Any]:
    row = asdict(caption)
    return row if caption.reasoning else {name: row[name] for name in ("pair_id", "caption", "reason")}


def _reasons(failed: Sequence[Caption]) -> dict[str, int]:
    """How often each kind of failure occurred."""
    return dict(Counter(each.reason if each.reason in KINDS else "request" for each in failed))


def _named(pairs: Sequence[Pair]) -> list[Caption]:
    several = [pair.pair_id for pair in pairs if pair.rgb is None]
    if several:
        raise BenchmarkError(
            f"captioner nearest_colour needs images of one colour, and {several[0]} is not: set "
            "image_text.captioner=vlm or none"
        )
    names = nearest_colour([pair.rgb for pair in pairs])
    return [Caption(pair.pair_id, NEAREST.format(name=name)) for pair, name in zip(pairs, names, strict=True)]


async def _ask_all(
    pairs: Sequence[Pair], settings: CaptionSettings, chat: ChatModel, progress: Progress
) -> tuple[list[Caption], dict[str, Any]]:
    """Captions of all images, and the session's usage."""
    done = 0
    # The session limits the requests; this limits the encoded images in memory.
    slots = asyncio.Semaphore(2 * chat.config.max_parallel)

    async def one(session: ChatSession, pair: Pair) -> Caption:
        nonlocal done
        async with slots:
            caption = await _ask(session, pair, settings)
        done += 1
        progress(done, len(pairs), "images")
        return caption

    async with chat.session(len(pairs)) as session:
        tasks = [asyncio.create_task(one(session, pair)) for pair in pairs]
        try:
            captions = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return list(captions), {
            name: value for name, value in asdict(session.usage).items() if value is not None
        }


async def _ask(session: ChatSession, pair: Pair, settings: CaptionSettings) -> Caption:
    parts = [
        {"type": "text", "text": settings.caption_prompt},
        {"type": "image_url", "image_url": {"url": data_uri(pair.open())}},
    ]
    system = [{"role": "system", "content": settings.caption_system}] if settings.caption_system else []
    messages = cast("list[Message]", [*system, {"role": "user", "content": parts}])
    try:
        answer = await session.ask(settings.caption_model, messages)
    except CallFailedError as error:
        return Caption(pair.pair_id, None, str(error))
    return read_caption(pair.pair_id, answer)


def read_caption(pair_id: str, answer: ChatAnswer) -> Caption:
    """The caption in an answer. A block of reasoning before it is removed; an answer that declines, is cut or has
    nothing else gives no caption."""
    text = REASONING.sub("", answer.text)
    if not OPEN_REASONING.search(text):
        text = END_OF_REASONING.sub("", text)  # some servers leave the opening mark out
    reasoning = text != answer.text
    if OPEN_REASONING.search(text):
        return Caption(pair_id, None, CUT if answer.truncated else ONLY_REASONING, True)
    text = " ".join(text.split())
    if answer.refused or REFUSAL.match(text):
        return Caption(pair_id, None, REFUSED, reasoning)
    if answer.truncated:
        return Caption(pair_id, None, CUT, reasoning)
    if not text:
        return Caption(pair_id, None, ONLY_REASONING if reasoning else EMPTY, reasoning)
    return Caption(pair_id, text, None, reasoning)
