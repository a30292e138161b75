"""The embedding server: an ONNX model folder behind NVIDIA NIM's text-embedding contract.

Runs alone: without dagster, and without torch but for checkpoints that have no export (`torch_model`).
``python -m assets_pkg.nim --model-dir DIR`` serves a folder over HTTP; `assets_pkg.nim.engine.OnnxEncoder`
embeds in process, without a server.
"""

import os

# onnxruntime reports usage to its makers unless told not to, and where it cannot, waits for that when it ends.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
