"""Which part of a graph is the front end, whose numbers span ten decades, and which operators hold the weights."""

from __future__ import annotations

import math

import onnx

from export.graph import INPUT


def front_end(model: onnx.ModelProto) -> set[str]:
    """Return the names of the nodes up to and including the last logarithm of sound.

    Powers span ten decades, float16 five, int8 two: all that stays in the precision it was traced in. A logarithm of
    constants (a transformer's relative positions) is no front end. Without a logarithm the set is empty.
    """
    made_by = {output: node for node in model.graph.node for output in node.output}
    heard = {INPUT}
    logs = []
    for node in model.graph.node:
        if heard.intersection(node.input):
            heard.update(node.output)
            if node.op_type == "Log":
                logs.append(node)
    names: set[str] = set()
    waiting = [output for node in logs[-1:] for output in node.output]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None and node.name not in names:
            names.add(node.name)
            waiting.extend(node.input)
    return names


def heavy_operators(model: onnx.ModelProto, *, share: float = 0.25) -> tuple[str, ...]:
    """Return which of Conv, MatMul and Gemm hold at least ``share`` of the weights behind the front end, most first.

    A convolutional network answers ``("Conv",)``, a transformer ``("MatMul",)``.
    """
    sizes = {t.name: math.prod(t.dims) for t in model.graph.initializer}
    kept = front_end(model)
    held = dict.fromkeys(("Conv", "Gemm", "MatMul"), 0)
    for node in model.graph.node:
        if node.op_type in held and node.name not in kept:
            held[node.op_type] += sum(sizes.get(name, 0) for name in node.input[1:2])
    total = sum(held.values())
    heavy = [kind for kind, size in held.items() if size and size >= share * total]
    return tuple(sorted(heavy, key=lambda kind: -held[kind]))


def products_of_activations(model: onnx.ModelProto) -> set[str]:
    """Return the names of the matrix products without a constant factor, which are those of attention."""
    constants = {t.name for t in model.graph.initializer}
    return {node.name for node in model.graph.node if node.op_type == "MatMul" and constants.isdisjoint(node.input)}
