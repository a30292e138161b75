"""The embedding server as an application for an ASGI server of your own, set up by the server's variables.

    NIM_CUSTOM_MODEL=output/embed/stage4_export/onnx uvicorn assets_pkg.nim.server:app --host 0.0.0.0 --port 8000

Address, port, TLS and shutdown are then that server's; ``python -m assets_pkg.nim`` guards connections and drains, too.
"""

from __future__ import annotations

import os
import sys

from assets_pkg.nim.api import build_app
from assets_pkg.nim.manifest import FolderError
from assets_pkg.nim.observability import set_up_logging
from assets_pkg.nim.service import EmbeddingService
from assets_pkg.nim.settings import SettingsError, settings_from
from assets_pkg.nim.tracing import TracingError


def _service() -> EmbeddingService:
    try:
        settings = settings_from(os.environ, {})
        set_up_logging(settings)
        return EmbeddingService(settings)
    except (SettingsError, FolderError, TracingError) as error:
        sys.exit(f"error: {error}")


app = build_app(_service())
