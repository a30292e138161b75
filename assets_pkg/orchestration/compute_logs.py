"""Where the output of steps goes: to the files that the UI shows, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._serdes import ConfigurableClassData
from dagster._utils import ensure_file, touch_file


class StepOutputManager(LocalComputeLogManager):
    """Dagster's files of each step's stdout and stderr, without its copy on the terminal: four processes for each
    step, which write into progress bars and print tracebacks of their own when the run is interrupted."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> StepOutputManager:
        """``home``: the instance's folder; the files are where Dagster itself would write them."""
        return cls(str(Path(config_value["home"]) / "storage"), inst_data=inst_data)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"home": dg.StringSource}

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Generator[CapturedLogContext]:
        streams = {ComputeIOType.STDOUT: sys.stdout, ComputeIOType.STDERR: sys.stderr}
        paths = {kind: self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind]) for kind in streams}
        for path in paths.values():
            ensure_file(path)
        with (
            redirect_to_file(streams[ComputeIOType.STDOUT], paths[ComputeIOType.STDOUT]),
            redirect_to_file(streams[ComputeIOType.STDERR], paths[ComputeIOType.STDERR]),
        ):
            yield CapturedLogContext(log_key)
        touch_file(self.complete_artifact_path(log_key))
