"""The embedding server: a model folder behind NVIDIA NIM's text-embedding contract.

It runs without Dagster and torch and imports nothing of Retune outside this package: its Docker image holds
these files alone. A caller can pass in a model that needs more, such as a checkpoint under torch (`loading.Load`).
``python -m assets_pkg.nim --model-dir DIR`` serves an exported folder over HTTP;
`assets_pkg.nim.engine.OnnxEncoder` embeds in process, without a server.
"""

import os

# onnxruntime sends usage reports unless this is set; without a network the attempt delays the process's exit.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
