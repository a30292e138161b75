"""What a job says while it runs, read from its folder into a Dagster Pipes session."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster_pipes import PipesDefaultMessageWriter, PipesParams

from resources.compute.host import Host
from resources.compute.job import JobSpec


class JobMessages(dg.PipesMessageReader):
    """The messages that a job appends to a file of its folder; :meth:`pump` hands on those that are new, custom
    ones to ``custom``."""

    def __init__(self, host: Host, job: JobSpec, custom: Callable[[Mapping[str, Any]], None]):
        self._host = host
        self._job = job
        self._custom = custom
        self._offset = 0
        self._handler: dg.PipesMessageHandler | None = None

    @property
    def expected_writer_count(self) -> int:  # the base's, without its preview warning
        return 1

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Generator[PipesParams]:
        self._handler = handler
        yield {PipesDefaultMessageWriter.FILE_PATH_KEY: str(self._job.messages)}
        self.pump()

    def pump(self) -> None:
        """Hand on every whole line that was added since the last call."""
        assert self._handler is not None
        added = self._host.read(self._job.messages, self._offset)
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            message: Any = json.loads(line)
            if message["method"] == "report_custom_message":
                self._custom(message["params"]["payload"])
            else:
                self._handler.handle_message(message)

    def no_messages_debug_text(self) -> str:
        return f"Messages were expected in {self._job.messages}."
