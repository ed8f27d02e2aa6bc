"""Reads as much of an ONNX file's protobuf as it takes to refuse a dangerous model, without the ``onnx`` package.

Refused: tensors whose values lie in other files, operators from unknown domains, graphs without end, bytes that are not
protobuf. The walk follows the message types of onnx.proto3 (field numbers below) and skips weights by their length, so
it costs milliseconds whatever the size of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from edge.errors import BundleError

MAX_NODES = 20_000
MAX_DEPTH = 16
MAX_FIELDS = 1_000_000
ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# message type -> field number -> type of the message held there (onnx.proto3)
_CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 8: "OperatorSet", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Function": {7: "Node", 9: "OperatorSet", 11: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
    "OperatorSet": {},
}


@dataclass
class OnnxSummary:
    """What the walk saw."""

    n_nodes: int = 0
    n_fields: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    ir_version: int = 0


def check_onnx(data: bytes) -> OnnxSummary:
    """Walk ``data`` as an ONNX model. Raises BundleError when it is none or asks for what a bundle may not."""
    summary = OnnxSummary()
    try:
        _walk("Model", memoryview(data), summary, 0)
    except (IndexError, UnicodeDecodeError) as e:
        raise BundleError("the backbone is not a whole ONNX file: its protobuf is truncated or malformed") from e
    if summary.n_nodes == 0:
        raise BundleError("the backbone is not an ONNX model: it holds no operator")
    return summary


def _walk(kind: str, message: memoryview, summary: OnnxSummary, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BundleError(f"the backbone nests graphs deeper than {MAX_DEPTH} levels; export it flat")
    if kind == "Node":
        summary.n_nodes += 1
        if summary.n_nodes > MAX_NODES:
            raise BundleError(f"the backbone has more than {MAX_NODES} operators; wanted a model for a small device")
    children = _CHILDREN[kind]
    domain, version = "", 0
    for number, value in _fields(message):
        summary.n_fields += 1
        if summary.n_fields > MAX_FIELDS:
            raise BundleError(f"the backbone has more than {MAX_FIELDS} protobuf fields; store its weights as raw data")
        if isinstance(value, int):
            if kind == "Tensor" and number == 14 and value & 0xFFFFFFFF:
                _refuse_external()
            elif kind == "Model" and number == 1:
                summary.ir_version = value
            elif kind == "OperatorSet" and number == 2:
                version = value
        elif number in children:
            _walk(children[number], value, summary, depth + 1)
        elif kind == "Tensor" and number == 13:
            _refuse_external()
        elif (kind, number) in {("Node", 7), ("OperatorSet", 1), ("Function", 10)}:
            domain = bytes(value).decode("utf-8")
            if domain not in ALLOWED_DOMAINS:
                raise BundleError(
                    f"the backbone uses operators of domain {domain!r:.80}; "
                    f"wanted only {', '.join(repr(d) for d in sorted(ALLOWED_DOMAINS))}"
                )
    if kind == "OperatorSet":
        summary.opsets[domain] = max(version, summary.opsets.get(domain, 0))


def _refuse_external() -> None:
    raise BundleError(
        "the backbone keeps weights in another file (ONNX external data), which a bundle may not; "
        "save it as one file: onnx.save_model(model, path, save_as_external_data=False)"
    )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of one protobuf message: an int, or the bytes of a length-delimited field."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if number == 0 or key >> 32:
            raise IndexError("a field number is out of range")
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, value
        elif wire == _BYTES:
            length, position = _varint(message, position)
            if length > end - position:
                raise IndexError("a field is longer than its message")
            yield number, message[position : position + length]
            position += length
        elif wire in (_FIXED32, _FIXED64):
            position += 4 if wire == _FIXED32 else 8
            if position > end:
                raise IndexError("a number is longer than its message")
        else:
            raise IndexError(f"wire type {wire} is none of protobuf")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise IndexError("a varint is longer than ten bytes")
