"""The part of Helm's template language that the chart uses: values, ``quote``, and ``if``/``else``/``end`` on lines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ACTION = re.compile(r"{{-?\s*(.*?)\s*-?}}")


def render(chart: Path, release: str, **changes: Any) -> list[dict[str, Any]]:
    """The objects of a chart with the default values and ``changes``, in the order of the templates' names."""
    values = {**yaml.safe_load((chart / "values.yaml").read_text()), **changes}
    names = {"Values": values, "Release": {"Name": release}}
    return [
        yaml.safe_load(rendered(path.read_text(), names)) for path in sorted((chart / "templates").iterdir())
    ]


def rendered(template: str, names: dict[str, Any]) -> str:
    lines: list[str] = []
    shown: list[bool] = []
    for line in template.splitlines():
        found = ACTION.fullmatch(line)
        words = found[1].split() if found else [""]
        if words[0] == "if":
            shown.append(bool(_value(words[1], names)))
        elif words[0] == "else":
            shown[-1] = not shown[-1]
        elif words[0] == "end":
            shown.pop()
        elif all(shown):
            lines.append(ACTION.sub(lambda action: _text(action[1], names), line))
    assert not shown
    return "\n".join(lines) + "\n"


def _text(expression: str, names: dict[str, Any]) -> str:
    name, _, function = (part.strip() for part in expression.partition("|"))
    value = _value(name, names)
    assert function in ("", "quote"), function
    return json.dumps(str(value)) if function else str(value)


def _value(name: str, names: dict[str, Any]) -> Any:
    value: Any = names
    for part in name.removeprefix(".").split("."):
        value = value[part]
    return value
