"""Eight-bit weights for an exported graph.

``int8_weights`` (onnxruntime's ``MatMulNBits``, blocks of 128, arithmetic in float32) makes the folder a third
smaller; a text's vector does not depend on the rest of its batch. It is not faster on a CPU: that needs rounded
activations too. ``int8_dynamic`` rounds them, on one scale for a whole batch: twice as fast and a quarter of the
size, but a text's vector depends on its batch, so behind a batching server it is not reproducible.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from assets_pkg.nim.manifest import QuantizedDtype

BITS = 8
BLOCK = 128


def quantize(graph: Path, dtype: QuantizedDtype) -> None:
    """Replace the float32 graph in the file ``graph``. The same graph gives the same bytes."""
    with _quietly():
        _quantize(graph, dtype)


def _quantize(graph: Path, dtype: QuantizedDtype) -> None:
    import onnx

    if dtype == "int8_weights":
        onnx.save_model(_weights_only(graph), str(graph))
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=graph.parent, prefix=".quantize-") as work:
        quantized = Path(work) / graph.name
        # Per channel: with one scale for a whole matrix a fifth of the nearest neighbours changed.
        quantize_dynamic(graph, quantized, per_channel=True, weight_type=QuantType.QInt8)
        quantized.replace(graph)


def _weights_only(graph: Path) -> Any:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(str(graph)), bits=BITS, block_size=BLOCK, is_symmetric=True)
    quantizer.process()
    return cast(Any, quantizer.model).model


@contextmanager
def _quietly() -> Generator[None]:
    """The quantizers log every node, and configure logging for the whole process to do so."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        root.setLevel(level)
        root.handlers[:] = handlers
