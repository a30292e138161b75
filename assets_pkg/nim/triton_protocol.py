"""Triton's ``ModelConfig`` and ``ModelStatistics``, which clients made for Triton ask for beside KServe V2.

The messages have the fields that this server can fill, with the names and numbers of Triton's own definitions
(https://github.com/triton-inference-server/common/tree/main/protobuf); on the wire they are the same messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

SERVICE = "inference.GRPCInferenceService"
PACKAGE = "retune.triton"  # a client in the same process may define Triton's own package
TYPE_INT32, TYPE_FP32, TYPE_STRING = 8, 11, 13

_SCALARS = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
}
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ModelConfigRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelInput": {"name": (1, "string"), "data_type": (2, "int32"), "dims": (4, "*int64")},
    "ModelOutput": {"name": (1, "string"), "data_type": (2, "int32"), "dims": (3, "*int64")},
    "ModelConfig": {
        "name": (1, "string"),
        "platform": (2, "string"),
        "max_batch_size": (4, "int32"),
        "input": (5, "*ModelInput"),
        "output": (6, "*ModelOutput"),
        "backend": (17, "string"),
    },
    "ModelConfigResponse": {"config": (1, "ModelConfig")},
    "ModelStatisticsRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelStatistics": {
        "name": (1, "string"),
        "version": (2, "string"),
        "inference_count": (4, "uint64"),
        "execution_count": (5, "uint64"),
    },
    "ModelStatisticsResponse": {"model_stats": (1, "*ModelStatistics")},
}
"""Number and type of each field; ``*`` is a repeated one."""


def _message_classes() -> dict[str, Any]:
    file = FileDescriptorProto(name="retune_triton.proto", package=PACKAGE, syntax="proto3")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            field = described.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
            if kind.startswith("*"):
                field.label, kind = FieldDescriptorProto.LABEL_REPEATED, kind[1:]
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES}


MESSAGES = _message_classes()

Method = Callable[[Any, Any], Awaitable[Any]]


def _serialized(answer: Any) -> bytes:
    return answer.SerializeToString()


def generic_handler(methods: Mapping[str, Method]) -> grpc.GenericRpcHandler:
    """Methods of Triton's service, by name; each gets its request and answers with its response."""
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            method,
            request_deserializer=MESSAGES[f"{name}Request"].FromString,
            response_serializer=_serialized,
        )
        for name, method in methods.items()
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
