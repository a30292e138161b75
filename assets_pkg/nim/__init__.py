"""The embedding server: an ONNX model folder behind NVIDIA NIM's text-embedding contract.

Runs alone: no module here imports dagster or torch. ``python -m assets_pkg.nim --model-dir DIR`` serves
a folder over HTTP; `assets_pkg.nim.engine.OnnxEncoder` embeds in process, without a server.
"""

import os

# onnxruntime reports usage to its makers unless told not to, and where it cannot, waits for that when it ends.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
