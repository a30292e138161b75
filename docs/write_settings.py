"""Writes ``docs/settings.md`` from the code: ``python docs/write_settings.py``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from assets_pkg.config.describe import describe
from assets_pkg.config.profile_files import PROFILE_FOLDER, load_profile

PAGE = Path(__file__).with_name("settings.md")
HEAD = """\
# Settings

<!-- Written by docs/write_settings.py from the code; `make settings` writes it again. -->

Settings stand in the project's `retune.yaml`, in the sections below, and can be given to any command as `KEY=VALUE`;
`KEY` alone is enough if only one section has it. `retune info` prints those of a project, `retune STAGE --help` those
of a stage. A project extends a profile: `laptop` (no key, no GPU), `laptop_adapter` or `default` (the Nemotron
embedding recipe). A change of a setting makes the assets that read it stale; those marked with * only change how a
stage runs.
"""
COLUMNS = "| key | what it is | type | default | laptop |\n|---|---|---|---|---|"
TITLES = {
    "": "Artifacts",
    "corpus": "Documents",
    "passages": "Passages",
    "model": "Model",
    "sdg": "Questions (sdg)",
    "prep": "Training set and eval set (prep)",
    "finetune": "Fine-tuning (finetune)",
    "eval": "Measurement (eval)",
    "gate": "Promotion (gate)",
    "export": "Export (export)",
    "deploy": "Embedding server (deploy)",
    "reindex": "Index (reindex)",
    "search": "Search (search)",
    "judges": "Caption judges (judges)",
    "image_text": "Image-text benchmark (image_text)",
    "accelerator": "Device (accelerator)",
    "automation": "Sensors and schedules (automation)",
    "compute": "Compute targets (compute)",
}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    section = None
    for setting in describe(load_profile("default")):
        if setting.section != section:
            section = setting.section
            parts.append(
                f"\n## {TITLES[section]}\n\n| key | what it is | type | default | laptop |\n|---|---|---|---|---|\n"
            )
        own = [_shown(_values(name), section, setting.name) for name in ("default", "laptop")]
        laptop = "" if own[1] in (None, own[0]) else own[1]
        mark = "" if setting.decides or not section else " *"
        cells = (
            f"`{setting.key}`{mark}",
            _cell(setting.line),
            _cell(setting.kind),
            own[0] or "",
            laptop or "",
        )
        parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


@cache
def _values(profile: str) -> dict[str, Any]:
    """What a profile's file itself says."""
    return yaml.safe_load((PROFILE_FOLDER / f"{profile}.yaml").read_text("utf-8"))


def _shown(values: dict[str, Any], section: str, name: str) -> str | None:
    group = values.get(section, {}) if section else values
    if name not in group:
        return None
    value = group[name]
    return f"`{_cell(value if isinstance(value, str) and value else json.dumps(value))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
