"""What every asset function works with: typed upstream artifacts in, a built artifact and its materialization out.

An asset built through here is keyed by its code version and its inputs' data versions. If that key was
built before, the earlier artifact is reused: re-running is cheap, a rollback costs nothing, and a killed run loses
only the step it was in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from assets_pkg.config.stages import STAGE_OF
from assets_pkg.orchestration.accelerator_lock import accelerator_lock
from assets_pkg.orchestration.history import (
    ARTIFACT_KEY,
    CODE_VERSION_TAG,
    REUSED_KEY,
    SETTINGS_KEY,
    STORE_KEY,
    ArtifactRef,
    data_version,
    input_tags,
)
from assets_pkg.orchestration.instance import PROCESS_TAG
from assets_pkg.orchestration.names import Names
from assets_pkg.orchestration.pipes_client import run_remote
from assets_pkg.orchestration.run_observer import run_observer
from assets_pkg.orchestration.run_tags import data_set_tags
from assets_pkg.orchestration.upstream import A, UpstreamArtifacts
from resources.compute.errors import ComputeError
from resources.compute.targets import ComputeTarget
from resources.configurable import ArtifactStoreResource, ComputeResource
from resources.machine.usage import UsageMeter
from storage.artifact_store import BuildKey
from storage.artifacts import Artifact
from storage.errors import RetuneError, TransientError
from storage.progress import Progress, Rate, shown_figures

FORCED_TAG = "retune/force"
LOG_EVERY_SECONDS = 5.0
RETRY_AFTER_SECONDS = (30.0, 300.0)

VERDICT = "verdict"
DECISION = "decision"
"""Metadata keys: what a measurement or a decision comes to, in a sentence."""


def forced_tag(assets: Collection[str]) -> dict[str, str]:
    """The tag of a run that builds ``assets`` though they may have been built before from the same inputs."""
    return {FORCED_TAG: json.dumps(sorted(assets))} if assets else {}


class AssetContext(UpstreamArtifacts):
    """The context of one asset's execution: its inputs, its build, its result.

    ``targets`` says where its builds run; without ``compute`` they run in this process.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource | None = None,
    ):
        names = Names.around(context.assets_def.keys)
        super().__init__(context.instance, store, context.run_id, names)
        self.context = context
        self.targets = (compute or ComputeResource()).get()
        self._reported: dict[str, Mapping[str, Any]] = {}
        self._usage: dict[dg.AssetKey, dict[str, Any]] = {}
        self._reused: dict[dg.AssetKey, bool] = {}
        self._inputs: dict[dg.AssetKey, dg.EventLogRecord | None] = {}
        self.store.progress = self.progress()

    def build(
        self,
        kind: type[A],
        produce: Callable[[Path], None],
        *,
        asset: str | None = None,
        outside: Mapping[str, str] | None = None,
        anew: bool = False,
    ) -> A:
        """The artifact for this asset's code version and inputs; ``produce(folder)`` makes it if need be.

        Args:
            asset: which asset of a multi-asset is built.
            outside: digests of inputs outside the graph, such as the source of the corpus.
            anew: build even if the same was built before, as also in a run with :func:`forced_tag`.
        """
        key = self._build_key(asset, outside or {})
        if anew or self.is_forced(key.asset):
            self.store.forget(key)
        artifact = self.store.find(kind, key)
        self._reused[self._spec(asset).key] = artifact is not None
        if artifact is not None:
            self.note(f"{key.asset}: made before from the same inputs, reused {artifact.version}")
            return artifact
        started = time.monotonic()
        target = self.targets.target_of(STAGE_OF[key.asset])
        if target is None:
            with UsageMeter() as meter:
                artifact = self.store.build(kind, key, produce)
            self._usage[self._spec(asset).key] = meter.figures()
        else:
            artifact = self._build_remotely(target, kind, key)
        self.context.log.info(f"{key.asset}: made {artifact.version} in {time.monotonic() - started:.1f} s")
        return artifact

    def _build_remotely(self, target: tuple[str, ComputeTarget], kind: type[A], key: BuildKey) -> A:
        name = f"{key.asset}-{key.digest[:12]}"
        # The job's log lines are passed on, progress among them: the observer needs the numbers only.
        progress = partial(run_observer().progress, self.context.op_execution_context.op.name)
        self._reported = run_remote(self.context, self.targets, target, self.store, name, progress)
        artifact = self.store.find(kind, key)
        if artifact is None:
            raise ComputeError(
                f"{target[0]}: the job made {key.asset}, but not in {self.store.location}: artifact_root must be the "
                "same there (a shared file system, a mount, a bucket), and Retune the same version"
            )
        return artifact

    def _record(self, asset: str | dg.AssetKey) -> dg.EventLogRecord | None:
        key, own = self.names.key(asset), self.context.assets_def
        if key in own.keys or key not in own.dependency_keys:
            return super()._record(key)
        if key not in self._inputs:  # the same for as long as the step runs
            self._inputs[key] = super()._record(key)
        return self._inputs[key]

    def lock(self) -> AbstractContextManager[None]:
        """The lock on the accelerator, if this step is in its pool."""
        pool = self.context.op_def.pool
        return accelerator_lock(pool, self.instance, self.note) if pool else nullcontext()

    def is_forced(self, asset: str) -> bool:
        """Whether the run is to make ``asset`` even if the same was made before: :func:`forced_tag`."""
        return asset in json.loads(self.context.run.tags.get(FORCED_TAG, "[]"))

    @property
    def points(self) -> bool:
        """Whether this run updates pointers. A job leaves that to the run that submitted it."""
        return self.targets.inside_job is None

    def link(self, name: str, target: Path) -> None:
        """Point the recipe-named path ``name`` at ``target``, if this run updates pointers."""
        if self.points:
            self.store.link(name, target)

    def result(
        self, artifact: Artifact, metadata: Mapping[str, Any], asset: str | None = None
    ) -> dg.MaterializeResult[Any]:
        """The materialization of ``artifact``: its version, its path, the resources that building it took (if it was
        built just now), and ``metadata``."""
        if tags := data_set_tags(self.names, artifact.asset, artifact.version):
            self.instance.add_run_tags(self.context.run_id, tags)
        shown = sorted(metadata.items(), key=_place)
        recorded = {
            **dict(shown),
            **self._usage.get(self._spec(asset).key, {}),
            **self._reported.get(artifact.asset, {}),
            "path": dg.MetadataValue.path(artifact.path),
            "dagster/uri": self.store.address(artifact),
            **_described_table(artifact),
            ARTIFACT_KEY: str(ArtifactRef(artifact.asset, artifact.version)),
            STORE_KEY: self.store.identity(),
            **({REUSED_KEY: self._reused[own]} if (own := self._spec(asset).key) in self._reused else {}),
            SETTINGS_KEY: self._spec(asset).metadata[SETTINGS_KEY],
        }
        return dg.MaterializeResult(
            asset_key=None if asset is None else self.names.key(asset),
            metadata=recorded,
            data_version=dg.DataVersion(artifact.version),
            tags={CODE_VERSION_TAG: self._spec(asset).code_version or "", **self._input_tags(asset)},
        )

    def _input_tags(self, asset: str | None) -> dict[str, str]:
        """What it was made from; Dagster itself would name the latest, which may be another run's."""
        tags: dict[str, str] = {}
        for dep in self._spec(asset).deps:
            record = self._record(dep.asset_key)
            tags |= input_tags(dep.asset_key, record) if record is not None else {}
        return tags

    def note(self, text: str) -> None:
        """Log ``text`` to the run, and show it to the observer."""
        self.context.log.info(text)
        run_observer().note(text)

    def progress(self) -> Progress:
        """Progress for the observer and, every few seconds, for the run's log."""
        last, rate = 0.0, Rate()
        step = self.context.op_execution_context.op.name

        def report(done: int, total: int, unit: str, **figures: float) -> None:
            nonlocal last
            run_observer().progress(step, done, total, unit, **figures)
            rate.add((unit,), done, total, figures.get("cached", 0))
            now = time.monotonic()
            if now - last >= LOG_EVERY_SECONDS or done == total:
                last = now
                shown = filter(None, [f"{done:,} of {total:,} {unit}", str(rate), shown_figures(figures)])
                self.context.log.info(", ".join(shown))

        return report

    def _spec(self, asset: str | None) -> dg.AssetSpec:
        key = self.names.key(asset) if asset else self.context.asset_key
        return self.context.assets_def.specs_by_key[key]

    def _build_key(self, asset: str | None, outside: Mapping[str, str]) -> BuildKey:
        spec = self._spec(asset)
        # Of a user's own asset the step passes the digest of what it has read: ``outside``.
        inputs = {
            self.names.asset(dep.asset_key): data_version(self.recorded(dep.asset_key))
            for dep in spec.deps
            if self.names.makes(dep.asset_key)
        }
        return BuildKey(self.names.asset(spec.key), spec.code_version or "", {**inputs, **outside})


def _place(item: tuple[str, Any]) -> int:
    """What people look for comes first: the verdict, then pictures and tables, then figures, then structures."""
    name, value = item
    if name in (VERDICT, DECISION):
        return 0
    if isinstance(value, dg.MarkdownMetadataValue):
        return 1
    return 3 if isinstance(value, dict | list) else 2


def _described_table(artifact: Artifact) -> dict[str, Any]:
    """Its number of rows and its columns, in the form that the UI shows beside every table."""
    rows, columns = artifact.row_count(), artifact.columns()
    schema = dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()])
    return {
        **({} if rows is None else {"dagster/row_count": rows}),
        **({"dagster/column_schema": schema} if columns else {}),
    }


def _delay_before_retry(context: dg.AssetExecutionContext, error: BaseException) -> float | None:
    """Seconds after which the step is tried again; None if it is not: only where a service did not answer, and not in
    a run of the command, whose user sees it and decides."""
    done = context.op_execution_context.retry_number
    if PROCESS_TAG in context.run.tags or done >= len(RETRY_AFTER_SECONDS):
        return None
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, TransientError):
        cause = cause.__cause__
    return None if cause is None else RETRY_AFTER_SECONDS[done]


@contextmanager
def asset_context(
    context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource | None = None
) -> Iterator[AssetContext]:
    """An :class:`AssetContext`. A :class:`RetuneError` fails the step with its message, without traceback or retry; so
    does a full disk. After a :class:`TransientError` the step is tried again. Any other error keeps its traceback."""
    step = context.op_execution_context.op.name
    run_observer().started(step)
    try:
        asset = AssetContext(context, store, compute)
        asset.store.await_deletion(lambda: asset.note("waits until old versions are deleted (retune gc)"))
        with asset.lock():
            yield asset
    except dg.Failure:
        raise
    except Exception as error:
        foreseen = isinstance(error, RetuneError)
        message = str(error) if foreseen else store.get().explain_full_disk(error, f"making {step}")
        if message is None:
            raise
        if (delay := _delay_before_retry(context, error)) is not None:
            context.log.warning(f"{message}: tried again in {delay} s")
            raise dg.RetryRequested(max_retries=len(RETRY_AFTER_SECONDS), seconds_to_wait=delay) from error
        raise dg.Failure(message, allow_retries=False) from error
    run_observer().finished(step)
