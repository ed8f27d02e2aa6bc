"""The folder of a C library: sources that are the same for all, and the tables of one network."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from edge.bundle import Bundle
from edge.errors import BundleError
from export.c.emit import NOTE, float_source, front_end_source, integer_source
from export.c.first_head import bank_bytes
from export.c.integers import IntegerNetwork
from export.c.network import Network
from export.c.plan import Arena, Precision

EAR_BYTES = 8


@dataclass(frozen=True, eq=False)
class Library:
    """What is written. arenas: one for each precision that the library holds; the first of them is the default.
    head: the head that it starts with, in the bytes of a bank (sk_head.h); none: it waits for one over the link."""

    bundle: Bundle
    network: Network
    arenas: Mapping[Precision, Arena]
    integers: IntegerNetwork | None = None
    head: bytes = b""

    def write(self, out: Path) -> None:
        """Write the folder ``out``, which must not exist yet. Raises BundleError."""
        refuse_existing(out)
        beside = out.with_name(out.name + ".part")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            with as_file(files("firmware_bridge") / "c") as sources:
                for part in ("include", "src", "ports"):
                    if (sources / part).is_dir():
                        shutil.copytree(sources / part, beside / part)
            for name, text in self.generated().items():
                (beside / name).write_text(text, encoding="ascii")
            beside.rename(out)
        except OSError as error:
            raise BundleError(f"{out} cannot be written: {error.strerror or error}; choose another folder") from error

    def generated(self) -> dict[str, str]:
        """Text of each file that belongs to this network, by its path in the folder."""
        texts = {
            "include/soundkeep/sk_model.h": self._header(),
            "src/sk_model.c": self._source(),
            "src/sk_model_frontend.c": front_end_source(self.network.front_end),
        }
        for precision, arena in self.arenas.items():
            if precision == "float32":
                texts["src/sk_model_float32.c"] = float_source(self.network, arena)
            elif self.integers is not None:
                texts["src/sk_model_int8.c"] = integer_source(self.integers, arena)
        return texts

    def _header(self) -> str:
        manifest, space = self.bundle.manifest, self.bundle.space
        default = next(iter(self.arenas))
        lines = [
            "/* " + f"{manifest.name} {manifest.version}".encode("ascii", "replace").decode() + ". "
            "Written by soundkeep-export. */",
            "#ifndef SOUNDKEEP_SK_MODEL_H",
            "#define SOUNDKEEP_SK_MODEL_H\n",
            '#include "soundkeep/sk_plan.h"\n',
            f"#define SK_MODEL_SAMPLE_RATE {space.sample_rate}u /* Hz */",
            f"#define SK_MODEL_WINDOW {space.window_length}u /* samples */",
            f"#define SK_MODEL_HOP {space.hop_length}u /* samples between two windows */",
            f"#define SK_MODEL_DIM {self.network.dim}u",
            f"#define SK_MODEL_GRID {space.grid.scale:.1f}f /* steps of the grid in one */",
            *(
                f"#define SK_MODEL_ARENA_{precision.upper()} {arena.n_bytes}u /* bytes */"
                for precision, arena in self.arenas.items()
            ),
            "#ifndef SK_MODEL_DEFAULT /* what sk_init uses; for another, define both on the compiler's command line */",
            f"#define SK_MODEL_DEFAULT sk_model_{default}",
            f"#define SK_MODEL_ARENA SK_MODEL_ARENA_{default.upper()}",
            "#endif",
            f"#define SK_MODEL_BANK {bank_bytes(self.network.dim, self.head)}u /* bytes of a bank of the head */",
            f"#define SK_MODEL_HEAD_BYTES {len(self.head)}u /* of the head that it starts with */\n",
            "extern const sk_front_end sk_model_front_end;",
            *(f"extern const sk_model sk_model_{precision};" for precision in self.arenas),
            "\n/* First bytes of the SHA-256 of the front end, as the bundle's second graph names it, or zeros. */",
            f"extern const uint8_t sk_model_front_end_id[{EAR_BYTES}];\n",
            "#endif\n",
        ]
        return "\n".join(lines)

    def _source(self) -> str:
        takes = dict(self.bundle.manifest.extra.get("features", {}))
        front_end = bytes.fromhex(str(takes.get("front_end", "00" * EAR_BYTES)))[:EAR_BYTES]
        ear = bytes.fromhex(self.bundle.space.sha256)[:EAR_BYTES]
        return "\n".join(
            [
                NOTE + '#include "soundkeep/sk_model.h"\n\n#include "soundkeep/sk.h"\n',
                "const sk_model *const sk_model_default = &SK_MODEL_DEFAULT;",
                f"const uint8_t sk_model_ear[{EAR_BYTES}] = {{{_bytes(ear)}}};",
                f"const uint8_t sk_model_front_end_id[{EAR_BYTES}] = {{{_bytes(front_end)}}};",
                f"const uint32_t sk_model_head_bytes = {len(self.head)}u;",
                f"const uint8_t sk_model_head[] = {{{_bytes(self.head + bytes(1))}}};\n",
            ]
        )


def refuse_existing(out: Path) -> None:
    """Raises BundleError when the folder is there."""
    if out.exists():
        raise BundleError(f"{out} exists already; choose another folder for the C library, or delete it first")


def _bytes(data: bytes) -> str:
    lines = [", ".join(f"0x{b:02x}u" for b in data[i : i + 16]) for i in range(0, len(data), 16)]
    return ",\n    ".join(lines)
