"""Images told in words, so that a model of texts can find them: by the nearest named colour, or by a vision model.

The vision model is any OpenAI-compatible chat endpoint that takes ``image_url`` parts. It is asked about one image
at a time, with the same consent, limits, budget and answer cache as the generation of questions.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from assets_pkg.config.sections.image_text import CaptionSettings
from assets_pkg.config.sections.sdg import SdgSettings, chat_config
from assets_pkg.image_text.colour import nearest_colour
from assets_pkg.image_text.errors import BenchmarkError
from assets_pkg.image_text.pairs import Pair
from resources.chat_model import CallFailedError, ChatConfig, ChatModel, ChatSession, Message
from resources.encoders.items import data_uri
from storage.files import write_json
from storage.progress import Progress, no_progress

NEAREST = "A plain image of the colour {name}."


@dataclass(frozen=True)
class Caption:
    """What was said about one image; None with a ``reason`` where nothing was."""

    pair_id: str
    caption: str | None
    reason: str | None = None


def caption_endpoint(settings: CaptionSettings, endpoint: SdgSettings, cache: Path) -> ChatConfig:
    """The vision endpoint: consent, key, limits and cache of the question generator's, at its own URL.
    Temperature is 0: a caption is a measurement, not an essay."""
    return replace(
        chat_config(endpoint, cache),
        base_url=settings.caption_base_url,
        temperature=0.0,
        max_output_tokens=settings.caption_max_tokens,
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
        BenchmarkError: named colours for images that are not of one colour; or the vision model answered nothing.
        ChatModelError: the endpoint cannot be used: no consent, no key, not there, budget spent.
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
    lines = [json.dumps(asdict(caption), ensure_ascii=False) for caption in captions]
    (folder / "captions.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")
    summary = {
        "captioner": settings.captioner,
        "captions": len(captions) - len(failed),
        "failed": len(failed),
        "seconds": time.monotonic() - started,
        **({"model": settings.caption_model, **usage} if settings.captioner == "vlm" else {}),
    }
    write_json(folder / "summary.json", summary, indent=None, ensure_ascii=True)


def _named(pairs: Sequence[Pair]) -> list[Caption]:
    odd = [pair.pair_id for pair in pairs if pair.rgb is None]
    if odd:
        raise BenchmarkError(
            f"captioner nearest_colour knows only images of one colour, and {odd[0]} is not: set "
            "image_text.captioner=vlm or none"
        )
    names = nearest_colour([pair.rgb for pair in pairs])
    return [Caption(pair.pair_id, NEAREST.format(name=name)) for pair, name in zip(pairs, names, strict=True)]


async def _ask_all(
    pairs: Sequence[Pair], settings: CaptionSettings, chat: ChatModel, progress: Progress
) -> tuple[list[Caption], dict[str, Any]]:
    """Captions of all images, and what they took."""
    done = 0
    # The session has its own limits; this one bounds the encoded images that are in memory.
    places = asyncio.Semaphore(2 * chat.config.max_parallel)

    async def one(session: ChatSession, pair: Pair) -> Caption:
        nonlocal done
        async with places:
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
    text = " ".join(answer.text.split())
    if answer.refused or not text:
        return Caption(pair.pair_id, None, "refused" if answer.refused else "empty answer")
    return Caption(pair.pair_id, text, "cut at caption_max_tokens" if answer.truncated else None)
