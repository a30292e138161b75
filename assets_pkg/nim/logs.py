"""Log lines to standard error, for people or one JSON object each."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import orjson

from assets_pkg.nim.settings import ServerSettings


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message and, after a failure, its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(entry).decode()


def set_up_logging(settings: ServerSettings) -> None:
    handler = logging.StreamHandler()
    if settings.log_json:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
