"""The prompt templates: the default file, and a file of the user's that overrides some of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from string import Template
from typing import Any

import yaml

from storage.digests import digest_json
from storage.errors import RetuneError
from storage.formats.yaml_values import load_yaml

DEFAULT_PROMPTS = Path(__file__).parents[1] / "prompts" / "default.yaml"

_PLACEHOLDERS = {
    "system": frozenset[str](),
    "extract": frozenset({"most", "types", "text"}),
    "generate": frozenset({"count", "pairs", "artifacts", "min_complexity", "text"}),
    "judge": frozenset({"pairs", "text"}),
    "repair": frozenset({"problems", "wanted"}),
}


class PromptError(RetuneError, ValueError):
    """A prompt file that cannot be used; the message names file, prompt and what is wrong."""


@dataclass(frozen=True)
class Prompts:
    """One template per kind of message (``string.Template`` syntax)."""

    system: str
    extract: str
    generate: str
    judge: str
    repair: str

    def fill(self, name: str, **values: Any) -> str:
        """The prompt ``name`` with its placeholders replaced."""
        return Template(getattr(self, name)).substitute(values)


def load_prompts(path: str | None) -> Prompts:
    """The default prompts, overridden by those in the file ``path``.

    Raises:
        PromptError: unreadable file, unknown prompt, or a template with a missing or unknown placeholder.
    """
    templates = _read(DEFAULT_PROMPTS)
    if path is not None:
        templates |= _read(Path(path).expanduser())
    return Prompts(**{field.name: templates[field.name] for field in fields(Prompts)})


def prompts_digest(path: str | None) -> str:
    """Digest of the prompts in effect: part of what determines the pairs."""
    prompts = load_prompts(path)
    return digest_json({field.name: getattr(prompts, field.name) for field in fields(prompts)})


def _read(path: Path) -> dict[str, str]:
    try:
        templates = load_yaml(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PromptError(f"{path}: not readable as a YAML file of prompts: {error}") from error
    if not isinstance(templates, dict):
        raise PromptError(f"{path}: must be a mapping from {', '.join(_PLACEHOLDERS)} to templates")
    for name, text in templates.items():
        _check(f"{path}: {name}", name, text)
    return templates


def _check(where: str, name: Any, text: Any) -> None:
    if name not in _PLACEHOLDERS:
        raise PromptError(f"{where}: no such prompt; there are {', '.join(_PLACEHOLDERS)}")
    if not isinstance(text, str):
        raise PromptError(f"{where}: must be a text")
    template = Template(text)
    if not template.is_valid():
        raise PromptError(f"{where}: a dollar sign that is not a $name must be written $$")
    used = set(template.get_identifiers())
    if used != _PLACEHOLDERS[name]:
        missing = [f"${each} is missing" for each in sorted(_PLACEHOLDERS[name] - used)]
        unknown = [f"${each} is unknown" for each in sorted(used - _PLACEHOLDERS[name])]
        raise PromptError(f"{where}: {', '.join(missing + unknown)}")
