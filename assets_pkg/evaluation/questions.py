"""What the questions of a measurement are, and what its result means for the questions that people ask."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from storage.artifacts import EvalSet
from storage.formats.eval_origin import MODEL, OWN, STRUCTURE

WRITERS = {
    STRUCTURE: "made from the structure of the documents",
    MODEL: "written by a chat model",
    OWN: "your own",
}
UNKNOWN = "not recorded"
MEANING = {
    STRUCTURE: "Expect a smaller gain on people's questions, whose words are not those of the documents: on two "
    "collections, the fine-tuned model alone gained 0.01 and 0.02 nDCG@10, with the chosen search method 0.04 and 0.06 "
    "(`retune eval-set import FOLDER` measures with your own questions).",
    MODEL: "Expect a smaller gain on people's questions, since the chat model had read the passages when it asked "
    "(`retune eval-set import FOLDER` measures with your own questions).",
    OWN: "The gain holds for questions of this kind, with the uncertainty that the interval states.",
}


def describe_questions(eval_set: EvalSet, questions: int) -> dict[str, Any]:
    """What a reader should know of the questions: ``lines`` by name, ``by`` (who wrote them, in words), and
    ``meaning``: one sentence on what that means, empty where the writer is not known."""
    origin = _origin(eval_set)
    kind = origin.get("questions_by", "")
    by = WRITERS.get(kind, UNKNOWN)
    source = origin.get("questions_from")
    lines = {
        "questions": f"{questions:,}, {by}{f' ({source})' if source else ''}",
        "documents": origin.get("corpus"),
        "passages searched": f"{origin['passages']:,}" if "passages" in origin else None,
        "cost of the questions": origin.get("questions_cost"),
        "measured on": f"{datetime.now().astimezone():%Y-%m-%d}",
    }
    return {
        "by": by,
        "lines": {name: str(value) for name, value in lines.items() if value},
        "meaning": MEANING.get(kind, ""),
    }


def _origin(eval_set: EvalSet) -> dict[str, Any]:
    try:
        return eval_set.summary()
    except FileNotFoundError:  # of a set that was made by hand
        return {}
