"""The tables of a network as C source. What is written depends on the network alone, to the byte."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from export.c.integers import IntegerAdd, IntegerConv, IntegerNetwork, Rescaling, Scale
from export.c.network import Add, Conv, FrontEnd, Network
from export.c.plan import SCRATCH, Arena

GROUP = 4
NOTE = "/* Written by soundkeep-export. */\n"


def front_end_source(fe: FrontEnd) -> str:
    """``src/sk_model_frontend.c``: tables of the front end, shared by all precisions."""
    bins = [np.flatnonzero(row) for row in fe.filters]
    first = [int(b[0]) if len(b) else 0 for b in bins]
    count = [int(b[-1] - b[0]) + 1 if len(b) else 0 for b in bins]
    filters = np.concatenate([row[f : f + n] for row, f, n in zip(fe.filters, first, count, strict=True)])
    angle = 2.0 * np.pi * np.arange(fe.n_fft // 2) / fe.n_fft
    twiddles = np.stack([np.cos(angle), -np.sin(angle)], axis=1)
    return "\n".join(
        [
            NOTE + '#include "soundkeep/sk_plan.h"\n\nextern const sk_front_end sk_model_front_end;\n',
            _array("float", "window", fe.window / np.float32(32768.0)),
            _array("float", "twiddles", twiddles.astype(np.float32)),
            _array("uint16_t", "first_bin", first),
            _array("uint16_t", "n_bins", count),
            _array("float", "filters", filters),
            "const sk_front_end sk_model_front_end = {",
            f"    {fe.window_length}u, {fe.frame_length}u, {fe.frame_hop}u, {fe.n_fft}u, {fe.n_bands}u, "
            f"{fe.n_frames}u, window, twiddles, first_bin, n_bins, filters,",
            f"    {_float(fe.level_floor)}, {_float(fe.relative_floor)}, {_float(fe.scale)}, {_float(fe.shift)},",
            "};\n",
        ]
    )


def float_source(network: Network, arena: Arena) -> str:
    """``src/sk_model_float32.c``: weights and plan in float."""
    tables, rows = [], []
    for i, step in enumerate(network.steps):
        fields = _common(network, arena, i)
        if isinstance(step, Conv):
            tables.append(f"/* {step.name} */")
            tables.append(_array("float", f"weights_{i}", grouped(step.weights)))
            tables.append(_array("float", f"bias_{i}", _filled(step.bias)))
            fields |= {"weights": f"weights_{i}", "bias": f"bias_{i}"}
        rows.append(_row(fields))
    return _model(network, arena, tables, rows, "float32", {})


def integer_source(integers: IntegerNetwork, arena: Arena) -> str:
    """``src/sk_model_int8.c``: weights and plan in int8."""
    network, scales = integers.network, integers.scales
    tables, rows = [], []
    for i, (step, numbers) in enumerate(zip(network.steps, integers.steps, strict=True)):
        fields = _common(network, arena, i)
        target = scales[step.output] if step.output != network.output else Scale(1.0, 0)
        fields["zero_in"], fields["zero_out"] = str(scales[step.input].zero), str(target.zero)
        fields["low"] = str(target.zero if isinstance(step, (Conv, Add)) and step.relu else -128)
        if isinstance(numbers, IntegerConv):
            tables.append(f"/* {step.name} */")
            tables.append(_array("int8_t", f"weights_{i}", in_blocks(numbers.weights)))
            tables.append(_array("int32_t", f"bias_{i}", _filled(numbers.bias)))
            fields |= {"weights": f"weights_{i}", "bias": f"bias_{i}"}
            if numbers.out_scale is not None:
                tables.append(_array("float", f"out_scale_{i}", numbers.out_scale))
                fields |= {"kind": "SK_OP_READ_OUT", "out_scale": f"out_scale_{i}"}
            else:
                tables.append(_scalings(f"scaling_{i}", numbers.rescaling))
                fields["scaling"] = f"scaling_{i}"
        elif isinstance(numbers, IntegerAdd) and isinstance(step, Add):
            fields["zero_other"] = str(scales[step.other].zero)
            fields |= {"factor_in": str(numbers.factor), "factor_other": str(numbers.other_factor)}
            fields["add_shift"] = f"{numbers.shift}u"
        elif isinstance(numbers, Rescaling):
            tables.append(_scalings(f"scaling_{i}", [numbers]))
            fields["scaling"] = f"scaling_{i}"
        rows.append(_row(fields))
    feature = scales[network.front_end.output]
    return _model(network, arena, tables, rows, "int8", {"quantum": _float(feature.step), "zero": str(feature.zero)})


def grouped(weights: NDArray[np.generic]) -> NDArray[np.generic]:
    """(outputs, inputs, rows, columns) -> [group of four outputs][row][column][input][4], filled up with zeros."""
    n = -(-len(weights) // GROUP) * GROUP
    full = np.zeros((n, *weights.shape[1:]), dtype=weights.dtype)
    full[: len(weights)] = weights
    return np.ascontiguousarray(full.reshape(-1, GROUP, *weights.shape[1:]).transpose(0, 3, 4, 2, 1))


def in_blocks(weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """As ``grouped``, each tap's inputs in blocks of four: [input / 4][output 4][input 4], the rest [input][output 4].
    Returns (n,)."""
    by_tap = grouped(weights)
    *taps, n_inputs, _ = by_tap.shape
    whole = n_inputs // GROUP * GROUP
    blocks = by_tap[..., :whole, :].reshape(*taps, -1, GROUP, GROUP).swapaxes(-1, -2)
    parts = (blocks.reshape(*taps, -1), by_tap[..., whole:, :].reshape(*taps, -1))
    return np.asarray(np.concatenate(parts, axis=-1).reshape(-1), dtype=np.int8)


def _common(network: Network, arena: Arena, i: int) -> dict[str, str]:
    """Fields of a step that have nothing to do with its precision."""
    step = network.steps[i]
    rows, columns, channels = network.shapes[step.input]
    fields = {
        "in_h": f"{rows}u",
        "in_w": f"{columns}u",
        "in_c": f"{channels}u",
        "in": f"{arena.offsets[step.input]}u",
    }
    out, offset = network.shapes[step.output], arena.offsets[step.output]
    if isinstance(step, Conv):
        fields |= {
            "kind": "SK_OP_CONV",
            "kernel_h": f"{step.weights.shape[2]}u",
            "kernel_w": f"{step.weights.shape[3]}u",
            "stride_h": f"{step.stride[0]}u",
            "stride_w": f"{step.stride[1]}u",
            "pad_top": f"{step.pads[0]}u",
            "pad_left": f"{step.pads[1]}u",
        }
    elif isinstance(step, Add):
        fields |= {"kind": "SK_OP_ADD", "other": f"{arena.offsets[step.other]}u"}
    else:
        fields |= {"kind": f"SK_OP_{step.kind.upper()}", "from": f"{step.begin}u", "to": f"{step.end}u"}
        out = (1, 1, channels)
    if not isinstance(step, (Conv, Add)):
        fields["out"] = f"{offset}u + {step.offset}u * SIZE"
    else:
        fields["out"] = f"{offset}u"
        if step.relu:
            fields["relu"] = "1u"
    fields |= {"out_h": f"{out[0]}u", "out_w": f"{out[1]}u", "out_c": f"{out[2]}u"}
    return fields


def _model(
    network: Network, arena: Arena, tables: Sequence[str], rows: Sequence[str], precision: str, extra: dict[str, str]
) -> str:
    element = "float" if precision == "float32" else "int8_t"
    fields = {
        "run": f"sk_run_{precision}",
        "front_end": "&sk_model_front_end",
        "ops": "ops",
        "n_ops": f"{len(network.steps)}u",
        "dim": f"{network.dim}u",
        "arena_bytes": f"{arena.n_bytes}u",
        "powers": f"{arena.offsets[network.front_end.output]}u",
        "scratch": f"{arena.offsets[SCRATCH]}u",
        "embedding": f"{arena.offsets[network.output]}u",
        **extra,
    }
    return "\n".join(
        [
            NOTE + '#include "soundkeep/sk_model.h"\n',
            f"#define SIZE ((uint32_t)sizeof({element}))\n",
            *tables,
            "static const sk_op ops[] = {",
            *rows,
            "};\n",
            f"const sk_model sk_model_{precision} = {{",
            *(f"    .{name} = {value}," for name, value in fields.items()),
            "};\n",
        ]
    )


def _row(fields: dict[str, str]) -> str:
    words = ", ".join(f".{name} = {value}" for name, value in fields.items())
    return "    {" + words + "},"


def _filled(values: NDArray[np.generic]) -> NDArray[np.generic]:
    full = np.zeros(-(-len(values) // GROUP) * GROUP, dtype=values.dtype)
    full[: len(values)] = values
    return full


def _scalings(name: str, scalings: Sequence[Rescaling]) -> str:
    words = [f"{{{s.multiplier}, {s.shift}u}}" for s in scalings]
    return _table("sk_scaling", name, words)


def _array(kind: str, name: str, values: NDArray[np.generic] | Sequence[int]) -> str:
    flat = np.asarray(values).reshape(-1)
    if kind == "float":
        words: Iterable[str] = (_float(v) for v in flat)
    else:
        words = (f"{v}u" if kind.startswith("u") else str(v) for v in flat)
    return _table(kind, name, list(words))


def _table(kind: str, name: str, words: Sequence[str]) -> str:
    lines, line = [], "   "
    for word in words:
        if len(line) + len(word) + 2 > 120:
            lines.append(line)
            line = "   "
        line += f" {word},"
    lines.append(line)
    body = "\n".join(lines)
    return f"static const {kind} {name}[{len(words)}] = {{\n{body}\n}};\n"


def _float(value: float | np.generic) -> str:
    """The shortest words that give exactly this float32 again."""
    text = np.format_float_scientific(np.float32(value), unique=True, trim="0")
    return f"{text}f"
