"""The Open Inference Protocol (KServe V2) over gRPC, with the queue and limits of the HTTP server.

One tensor ``text`` of BYTES in, [texts] or [texts, 1]; out come ``embeddings``, FP32 [texts, dimensions], and
``token_count``, INT32 [texts]; with another ``embedding_type`` than float, ``embeddings`` is INT8 or UINT8.
``input_type``, ``truncate``, ``dimensions`` and ``embedding_type`` are request parameters. The model's name is its id
in lower case with ``_`` for everything but letters and digits, as in the closed NIM; the id itself is accepted too.
Triton's ``ModelConfig`` and ``ModelStatistics`` are answered, by which clients learn the largest batch.
"""

from __future__ import annotations

import asyncio
import logging
import re
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar

import grpc
import numpy as np
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from assets_pkg.nim.access import NO_COUNTS, access, usable_id
from assets_pkg.nim.errors import (
    ApiError,
    BodyTooLargeError,
    InternalError,
    OverloadedError,
    PortError,
    UnauthorizedError,
    UnknownModelError,
)
from assets_pkg.nim.observability import Access
from assets_pkg.nim.schemas import EmbeddingRequest, Kind, as_kind
from assets_pkg.nim.service import Embedded, EmbeddingService
from assets_pkg.nim.settings import FrontSettings
from assets_pkg.nim.triton_protocol import (
    MESSAGES,
    TYPE_FP32,
    TYPE_INT32,
    TYPE_STRING,
    generic_handler,
)

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
TEXT, EMBEDDINGS, TOKEN_COUNT = "text", "embeddings", "token_count"
MODALITY = "modality"
MODEL_VERSION = "1"
DATATYPES = {"float32": "FP32", "int8": "INT8", "uint8": "UINT8"}
PARAMETERS = frozenset(["input_type", "truncate", "dimensions", "embedding_type", "user"])

CODES: dict[type[ApiError], grpc.StatusCode] = {
    UnauthorizedError: grpc.StatusCode.UNAUTHENTICATED,
    UnknownModelError: grpc.StatusCode.NOT_FOUND,
    BodyTooLargeError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    InternalError: grpc.StatusCode.INTERNAL,
}
"""Every other error is the request's: INVALID_ARGUMENT."""

Answer = TypeVar("Answer")


async def start_grpc(service: EmbeddingService) -> grpc.aio.Server:
    """Serve on the settings' address until the returned server is stopped.

    Raises:
        PortError: the address is in use, not allowed or not of this machine.
    """
    settings = service.settings
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.body_limit_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(settings.reuse_port)),
        ]
    )
    servicer = InferenceServicer(service)
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    triton = {"ModelConfig": servicer.ModelConfig, "ModelStatistics": servicer.ModelStatistics}
    server.add_generic_rpc_handlers((generic_handler(triton),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        address = f"{host}:{settings.grpc_port}"
        credentials = _credentials(settings)
        port = (
            server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        )
    except RuntimeError as error:
        raise PortError(f"cannot serve gRPC on {settings.host} port {settings.grpc_port}") from error
    await server.start()
    log.info("listening on grpc%s://%s:%d", "s" if credentials else "", host, port)
    return server


def _credentials(settings: FrontSettings) -> Any:
    if settings.tls_cert_path is None or settings.tls_key_path is None:
        return None
    return grpc.ssl_server_credentials(
        [(settings.tls_key_path.read_bytes(), settings.tls_cert_path.read_bytes())]
    )


def grpc_name(model: str) -> str:
    """``nvidia/llama-3.2-nv-embedqa-1b-v2`` as ``nvidia_llama_3_2_nv_embedqa_1b_v2``."""
    return re.sub(r"[^a-z0-9]", "_", model.lower())


class InferenceServicer(GRPCInferenceServiceServicer):
    """The protocol's methods over an `EmbeddingService`."""

    def __init__(self, service: EmbeddingService) -> None:
        self._service = service
        self._names = {grpc_name(name): name for name in reversed(service.parser.names)}

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._service.not_ready_because is None)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        known = self._known(request.name, request.version)
        return pb.ModelReadyResponse(ready=known and self._service.not_ready_because is None)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(name="retune", version=self._service.version)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        async def metadata() -> Any:
            self._require(request.name, request.version)
            return self._metadata(request.name)

        return await self._answer("ModelMetadata", metadata, context)

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        async def config() -> Any:
            self._require(request.name, request.version)
            text = MESSAGES["ModelInput"](name=TEXT, data_type=TYPE_STRING, dims=[1])
            size = self._service.manifest.dimensions
            outputs = [(TOKEN_COUNT, TYPE_INT32, []), (EMBEDDINGS, TYPE_FP32, [size])]
            found = MESSAGES["ModelConfig"](
                name=request.name,
                platform="retune",
                backend="retune",
                max_batch_size=self._service.settings.client_batch_limit,
                input=[text],
                output=[
                    MESSAGES["ModelOutput"](name=name, data_type=kind, dims=dims)
                    for name, kind, dims in outputs
                ],
            )
            return MESSAGES["ModelConfigResponse"](config=found)

        return await self._answer("ModelConfig", config, context)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        async def statistics() -> Any:
            name = request.name or grpc_name(self._service.parser.names[0])
            self._require(name, request.version)
            found = MESSAGES["ModelStatistics"](
                name=name,
                version=MODEL_VERSION,
                inference_count=self._service.metrics.value("retune_texts_total"),
                execution_count=self._service.metrics.value("retune_batch_rows_count"),
            )
            return MESSAGES["ModelStatisticsResponse"](model_stats=[found])

        return await self._answer("ModelStatistics", statistics, context)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        async def infer() -> Any:
            self._require(request.model_name, request.model_version)
            metadata: Mapping[str, Any] = dict(context.invocation_metadata() or ())
            front = self._service.front
            front.check_key(str(metadata.get("authorization", "")))
            with front.holding(_address(context)) as take, front.admitted():
                take(request.ByteSize())
                embedding = self._embedding_request(request)
                return _response(request, await self._service.embed(embedding), embedding.kind)

        return await self._answer("ModelInfer", infer, context)

    async def _answer(self, method: str, work: Callable[[], Awaitable[Answer]], context: Any) -> Answer:
        """The result of ``work``; its failure becomes the call's status. A client that disconnects cancels it."""
        code, message = grpc.StatusCode.OK, ""
        started, identity = time.perf_counter(), _request_id(context)
        context.set_trailing_metadata(((REQUEST_ID, identity),))
        try:
            return await work()
        except ApiError as error:
            code, message = CODES.get(type(error), grpc.StatusCode.INVALID_ARGUMENT), error.message
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            self._service.metrics.abandoned.inc()
            raise
        except Exception:
            log.exception("a call failed")
            code, message = grpc.StatusCode.INTERNAL, "Internal error."
        finally:
            self._service.metrics.requests.labels(method, code.name).inc()
            if self._service.settings.access_log:
                seconds = time.perf_counter() - started
                access.info(
                    Access(_address(context), f"gRPC {method}", code.name, seconds, identity, NO_COUNTS)
                )
        return await context.abort(code, message)

    def _known(self, name: str, version: str) -> bool:
        return grpc_name(name) in self._names and version in ("", MODEL_VERSION)

    def _require(self, name: str, version: str) -> None:
        if not self._known(name, version):
            expected = next(reversed(self._names))
            raise UnknownModelError(f"Unsupported model, expected '{expected}' version '{MODEL_VERSION}'")

    def _metadata(self, name: str) -> Any:
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=name,
            versions=[MODEL_VERSION],
            platform="retune",
            inputs=[tensor(name=TEXT, datatype="BYTES", shape=[-1, 1])],
            outputs=[
                tensor(name=TOKEN_COUNT, datatype="INT32", shape=[-1]),
                tensor(name=EMBEDDINGS, datatype="FP32", shape=[-1, self._service.manifest.dimensions]),
            ],
            properties={"model_digest": self._service.manifest.model_digest},
        )

    def _embedding_request(self, request: Any) -> EmbeddingRequest:
        tensors = dict(_tensors(request))
        if TEXT not in tensors:
            raise ApiError("an input tensor named `text` of datatype BYTES is needed")
        document: dict[str, Any] = {
            "input": tensors[TEXT],
            "model": self._names[grpc_name(request.model_name)],
        }
        if MODALITY in tensors:
            document["modality"] = tensors[MODALITY]
        for name, parameter in request.parameters.items():
            if name in PARAMETERS:
                document[name] = getattr(parameter, parameter.WhichOneof("parameter_choice") or "", None)
        return self._service.parser.check(document)


def _address(context: Any) -> str:
    return context.peer().rpartition(":")[0]


def _request_id(context: Any) -> str:
    given = dict(context.invocation_metadata() or ()).get(REQUEST_ID)
    return usable_id(given.encode() if isinstance(given, str) else b"").decode()


def _tensors(request: Any) -> Iterator[tuple[str, list[str]]]:
    """Each input's name and texts, from raw bytes or from contents."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise ApiError("raw_input_contents must have one entry for each input")
    for index, tensor in enumerate(request.inputs):
        if tensor.name not in (TEXT, MODALITY) or tensor.datatype != "BYTES":
            raise ApiError("the inputs are `text` and, if wanted, `modality`; both of datatype BYTES")
        values = list(_split(raw[index])) if raw else list(tensor.contents.bytes_contents)
        if list(tensor.shape) not in ([len(values)], [len(values), 1]):
            raise ApiError(f"the shape of `{tensor.name}` does not fit its {len(values)} values")
        try:
            yield tensor.name, [value.decode() for value in values]
        except UnicodeDecodeError as error:
            raise ApiError(f"`{tensor.name}` is not valid UTF-8") from error


def _split(raw: bytes) -> Iterator[bytes]:
    """The values of a raw BYTES tensor; each follows its length, four bytes little-endian."""
    start = 0
    while start < len(raw):
        end = start + 4
        if end <= len(raw):
            end += struct.unpack_from("<I", raw, start)[0]
        if start + 4 > len(raw) or end > len(raw):
            raise ApiError("raw_input_contents ends within a value")
        yield raw[start + 4 : end]
        start = end


def _response(request: Any, embedded: Embedded, kind: Kind) -> Any:
    vectors = as_kind(embedded.vectors, kind)
    counts = np.array(embedded.tokens, dtype="<i4")
    arrays = {TOKEN_COUNT: ("INT32", counts), EMBEDDINGS: (DATATYPES[vectors.dtype.name], vectors)}
    wanted = [output.name for output in request.outputs] or list(arrays)
    if unknown := set(wanted) - set(arrays):
        raise ApiError(f"{len(unknown)} of the outputs asked for do not exist; {', '.join(arrays)} do")
    tensor = pb.ModelInferResponse.InferOutputTensor
    chosen = {name: arrays[name] for name in wanted}
    return pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=MODEL_VERSION,
        id=request.id,
        outputs=[
            tensor(name=name, datatype=datatype, shape=array.shape)
            for name, (datatype, array) in chosen.items()
        ],
        raw_output_contents=[array.tobytes() for _, array in chosen.values()],
    )
