"""``retune promote`` and ``rollback``: the promoted model, set by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from assets_pkg.cli.common import ConfigOption, Overrides, console, failed, load_settings, usage
from assets_pkg.cli.running import definitions

if TYPE_CHECKING:
    from assets_pkg.config.profile import Profile


def promote(
    version: Annotated[str, typer.Argument(help="Digest of a fine-tuned or base model.")] = "",
    because: Annotated[str, typer.Option("--because", help="The reason, for the history.")] = "",
    show: Annotated[
        bool, typer.Option("--show", help="Show the history of decisions; change nothing.")
    ] = False,
    config: ConfigOption = "",
    overrides: Overrides = None,
) -> None:
    """Promote a model by hand: export, server and index then follow it."""
    if show:
        _show_promotions(load_settings(config, overrides))
    elif not version or not because:
        raise usage('retune promote VERSION --because "why", or retune promote --show')
    else:
        _promote(load_settings(config, overrides), version, because)


def rollback(config: ConfigOption = "", overrides: Overrides = None) -> None:
    """Promote the model that was promoted before the current one."""
    from assets_pkg.evaluation.promotion import promotions
    from assets_pkg.orchestration.instance import open_instance
    from storage.remote_store import open_store

    profile = load_settings(config, overrides)
    with open_instance() as instance:
        history = [each.version for each in promotions(instance, open_store(profile.artifact_root))]
    earlier = [version for version in history if version != history[0]]
    if not earlier:
        raise failed("there is no earlier promotion to go back to")
    _promote(profile, earlier[0], f"rollback from {history[0]}")


def _promote(profile: Profile, version: str, because: str) -> None:
    from assets_pkg.automation.execute import run_assets
    from assets_pkg.cli.summary import show_summary
    from assets_pkg.orchestration.instance import open_instance
    from storage.remote_store import open_store

    open_store(profile.artifact_root).check()
    defs = definitions(profile)
    with open_instance() as instance:
        choice = {"promoted_model": {"version": version, "because": because}}
        outcome = run_assets(defs, instance, ["promoted_model"], choice)
        if not outcome.succeeded:
            raise failed("; ".join(failure.message for failure in outcome.failures))
        show_summary(console, instance, profile, ["promoted_model"])
    console.print("next: `retune run --from export --to reindex`, or let the sensor of `retune ui` re-index")


def _show_promotions(profile: Profile) -> None:
    from assets_pkg.cli.progress import show_history
    from assets_pkg.evaluation.promotion import promotions, rows
    from assets_pkg.orchestration.instance import open_instance
    from storage.remote_store import open_store

    with open_instance() as instance:
        history = rows(promotions(instance, open_store(profile.artifact_root)))
    if history:
        show_history(console, history)
    else:
        console.print("nothing was promoted yet")
