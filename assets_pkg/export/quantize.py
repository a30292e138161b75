"""Eight-bit weights for an exported graph: smaller, and quicker on a CPU.

``int8_weights`` keeps activations as they are (onnxruntime's ``MatMulNBits``, blocks of 128): a text's vector
does not depend on the texts beside it. ``int8_dynamic`` rounds activations too, on one scale for a whole batch:
quickest, but the same text gets another vector in other company, so behind a batching server it is not
reproducible.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

from assets_pkg.nim.manifest import QuantizedDtype

BITS = 8
BLOCK = 128


def quantize(graph: Path, dtype: QuantizedDtype) -> None:
    """Replace the float32 graph in the file ``graph``. The same graph gives the same bytes."""
    import onnx

    if dtype == "int8_weights":
        onnx.save_model(_weights_only(graph), str(graph))
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=graph.parent, prefix=".quantize-") as work:
        made = Path(work) / graph.name
        # Per channel: on one scale for a whole matrix a fifth of the nearest neighbours were others.
        quantize_dynamic(graph, made, per_channel=True, weight_type=QuantType.QInt8)
        made.replace(graph)


def _weights_only(graph: Path) -> Any:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(str(graph)), bits=BITS, block_size=BLOCK, is_symmetric=True)
    quantizer.process()
    return cast(Any, quantizer.model).model
