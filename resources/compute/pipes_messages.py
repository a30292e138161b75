"""What a job reports while it runs, read from its folder into a Dagster Pipes session."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster_pipes import PipesDefaultMessageWriter, PipesParams

from resources.compute.host import Host
from resources.compute.job import JobFolder


class JobMessages(dg.PipesMessageReader):
    """Reads the messages that a job appends to a file of its folder; custom ones go to ``on_custom``."""

    def __init__(self, host: Host, folder: JobFolder, on_custom: Callable[[Mapping[str, Any]], None]):
        self._host = host
        self._path = folder.messages
        self._on_custom = on_custom
        self._offset = 0
        self._handler: dg.PipesMessageHandler | None = None

    @property
    def expected_writer_count(self) -> int:  # the base's, without its preview warning
        return 1

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Generator[PipesParams]:
        self._handler = handler
        yield {PipesDefaultMessageWriter.FILE_PATH_KEY: str(self._path)}
        self.read_new()

    def read_new(self) -> None:
        """Handle every complete line that was added since the last call."""
        assert self._handler is not None
        added = self._host.read(self._path, self._offset)
        complete = added[: added.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines():
            message: Any = json.loads(line)
            if message["method"] == "report_custom_message":
                self._on_custom(message["params"]["payload"])
            else:
                self._handler.handle_message(message)

    def no_messages_debug_text(self) -> str:
        return f"Messages were expected in {self._path}."
