"""``python -m firmware_bridge.generate [--check]``: write what follows from ``protocol.toml``, and nothing else does.

The Python messages, the C header, the page of documentation and the vectors that all implementations must agree on.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(__file__).resolve().parent
TABLE = PACKAGE / "protocol.toml"
REPOSITORY = PACKAGE.parent
STRUCT = {"u8": "B", "u16": "H", "u32": "I", "i16": "h", "f32": "f", "8s": "8s"}
PYTHON = {"u8": "int", "u16": "int", "u32": "int", "i16": "int", "f32": "float", "8s": "bytes"}
C_TYPES = {"u8": "uint8_t", "u16": "uint16_t", "u32": "uint32_t", "i16": "int16_t", "f32": "float"}
BYTES = {"u8": 1, "u16": 2, "u32": 4, "i16": 2, "f32": 4, "8s": 8}
WIDTH = 118


def read_table(path: Path = TABLE) -> dict[str, Any]:
    """Read the table of the protocol."""
    with path.open("rb") as file:
        return tomllib.load(file)


def format_of(message: Mapping[str, Any]) -> str:
    """Return the fixed part as a ``struct`` format without its byte order."""
    return "".join(STRUCT[kind] for _, kind in message["fields"])


def python_module(table: Mapping[str, Any]) -> str:
    """The messages as frozen dataclasses."""
    lines = [
        '"""Messages of the link. Written by ``firmware_bridge.generate`` from ``protocol.toml``: change that file."""',
        "",
        "from __future__ import annotations",
        "",
        "from dataclasses import dataclass",
        "from typing import ClassVar",
        "",
        "from firmware_bridge.message import Message",
        "",
        f"PROTOCOL_VERSION = {table['version']}",
        f"MAX_PAYLOAD = {table['max_payload']}",
        f"WINDOW = {table['window']}",
    ]
    lines += [f"{name.upper()} = {bit}" for name, bit in table["formats"].items()]
    lines += [f"CAN_{name.upper()} = {bit}" for name, bit in table["abilities"].items()]
    lines += [f"STATUS_{name.upper()} = {number}" for name, number in table["statuses"].items()]
    for message in table["message"]:
        lines += ["", "", "@dataclass(frozen=True)", f"class {message['name']}(Message):"]
        lines += [f'    """{_wrapped(message["doc"], 4)}"""', ""]
        lines += [f"    TYPE: ClassVar[int] = {message['type']}"]
        lines += [f'    FIXED: ClassVar[str] = "<{format_of(message)}"']
        fields = [f"    {name}: {PYTHON[kind]}" for name, kind in message["fields"]]
        fields += [f"    {message['tail']}: bytes"] if "tail" in message else []
        lines += ["", *fields] if fields else []
    names = ",\n    ".join(f"{m['name']}.TYPE: {m['name']}" for m in table["message"])
    lines += ["", "", f"MESSAGES: dict[int, type[Message]] = {{\n    {names},\n}}"]
    return "\n".join(lines) + "\n"


def c_header(table: Mapping[str, Any]) -> str:
    """The same as constants and offsets for C."""
    lines = [
        "/* Messages of the link. Written by firmware_bridge.generate from protocol.toml: change that file.",
        " * Numbers are little-endian. SK_<MESSAGE>_<FIELD> is the offset of a field in the payload; a tail begins at",
        " * SK_<MESSAGE>_FIXED. */",
        "#ifndef SOUNDKEEP_SK_PROTOCOL_H",
        "#define SOUNDKEEP_SK_PROTOCOL_H",
        "",
        f"#define SK_PROTOCOL_VERSION {table['version']}u",
        f"#define SK_MAX_PAYLOAD {table['max_payload']}u",
        f"#define SK_PACKET_HEAD {table['head_bytes']}u",
        f"#define SK_CRC_BYTES {table['crc_bytes']}u",
        f"#define SK_WINDOW {table['window']}u",
        "",
    ]
    lines += [f"#define SK_FORMAT_{name.upper()} {bit}u" for name, bit in table["formats"].items()]
    lines += [f"#define SK_CAN_{name.upper()} {bit}u" for name, bit in table["abilities"].items()]
    lines += [f"#define SK_STATUS_{name.upper()} {number}u" for name, number in table["statuses"].items()]
    for message in table["message"]:
        name = _constant(message["name"])
        lines += ["", f"#define SK_{name} {message['type']}u"]
        offset = 0
        for field, kind in message["fields"]:
            lines.append(f"#define SK_{name}_{field.upper()} {offset}u /* {C_TYPES.get(kind, 'uint8_t[8]')} */")
            offset += BYTES[kind]
        lines.append(f"#define SK_{name}_FIXED {offset}u")
    return "\n".join([*lines, "", "#endif", ""])


def page(table: Mapping[str, Any]) -> str:
    """The documentation of the protocol."""
    lines = [
        "# The link protocol",
        "",
        "Written by `python -m firmware_bridge.generate` from `firmware_bridge/protocol.toml`; change that file.",
        "How to use it: [firmware.md](firmware.md).",
        "",
        f"Version {table['version']}. A packet is",
        "`0x00 | COBS(type u8, flags u8, sequence u16, length u16, payload, CRC-32 u32) | 0x00`, little-endian.",
        f"A payload has at most {table['max_payload']} bytes; the CRC is that of zlib over all before it. Flags are 0.",
        "COBS leaves no zero inside, so a receiver finds the next packet at the next zero, whatever came before.",
        "Packets of unknown type are counted and skipped.",
        "",
        f"Commands that are acknowledged: at most {table['window']} under way; a copy with the same session and",
        "sequence number is answered again and done once. Sound is never sent again: its sample counter says what is",
        "missing.",
        "",
        "| type | message | from | payload |",
        "|---|---|---|---|",
    ]
    for message in table["message"]:
        parts = [f"`{name}` {kind}" for name, kind in message["fields"]]
        parts += [f"`{message['tail']}` ..."] if "tail" in message else []
        told = f"{message['doc']}{' Acknowledged.' if message.get('acknowledged') else ''}"
        lines.append(
            f"| {message['type']} | `{message['name']}` | {message['from']} | {', '.join(parts) or '-'}. {told} |"
        )
    for title, key in (("Formats", "formats"), ("Abilities", "abilities"), ("Statuses", "statuses")):
        lines += ["", f"**{title}.** " + ", ".join(f"{n} `{name}`" for name, n in table[key].items()) + "."]
    return "\n".join(lines) + "\n"


def vectors(table: Mapping[str, Any]) -> str:
    """One packet of each message, whose numbers follow from its type: what every implementation must write and read.

    COBS is done here once more, in the plainest way, so that the vectors do not come from the code that they test.
    """
    rows = []
    for message in table["message"]:
        values = {name: _example(kind, 7 * message["type"] + i) for i, (name, kind) in enumerate(message["fields"])}
        payload = struct.pack(f"<{format_of(message)}", *values.values())
        tail = bytes((5 * i * message["type"]) % 256 for i in range(20)) if "tail" in message else b""
        shown = {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}
        shown |= {message["tail"]: tail.hex()} if "tail" in message else {}
        seq = 1000 + message["type"]
        body = struct.pack("<BBHH", message["type"], 0, seq, len(payload + tail)) + payload + tail
        body += struct.pack("<I", zlib.crc32(body))
        packet = b"\0" + _plain_cobs(body) + b"\0"
        rows.append({"message": message["name"], "seq": seq, "values": shown, "packet": packet.hex()})
    return json.dumps(rows, indent=1) + "\n"


def outputs(table: Mapping[str, Any]) -> dict[Path, str]:
    """Every file that follows from the table, by path."""
    return {
        PACKAGE / "protocol.py": python_module(table),
        PACKAGE / "c" / "include" / "soundkeep" / "sk_protocol.h": c_header(table),
        REPOSITORY / "docs" / "link_protocol.md": page(table),
        REPOSITORY / "tests" / "firmware_bridge" / "vectors.json": vectors(table),
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or with ``--check`` say which are not what the table says."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a file is out of date")
    check = options.parse_args(arguments).check
    stale = []
    for path, text in outputs(read_table()).items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path}: {'out of date' if check else 'written'}")
    return int(check and bool(stale))


def _example(kind: str, seed: int) -> int | float | bytes:
    if kind == "8s":
        return bytes((seed * (i + 3)) % 256 for i in range(8))
    if kind == "f32":
        return seed / 8.0
    if kind == "i16":
        return -seed
    return (seed * 2654435761) % (1 << (8 * BYTES[kind]))


def _plain_cobs(data: bytes) -> bytes:
    out, run = bytearray(), bytearray()
    for i, byte in enumerate(data):
        if byte:
            run.append(byte)
        if not byte or (len(run) == 254 and i + 1 < len(data)):
            out += bytes([len(run) + 1]) + run
            run.clear()
    return bytes(out + bytes([len(run) + 1]) + run)


def _constant(name: str) -> str:
    return "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(name)).upper()


def _wrapped(text: str, indent: int) -> str:
    """Break a sentence into lines that fit a docstring."""
    lines: list[str] = []
    words, line = text.split(), ""
    for word in words:
        room = WIDTH - indent - (3 if not lines else 0)
        if line and len(line) + 1 + len(word) > room - 3:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    if lines:
        return f"\n{' ' * indent}".join([*lines, line]) + f"\n{' ' * indent}"
    return line


if __name__ == "__main__":
    sys.exit(main())
