"""What a signed repository says of a bundle, in the words that both ends share. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge.bundle import Bundle
from edge.bundle_archive import archive_name
from edge.errors import TrustError

SIGNED_AT = "x-soundkeep-signed-at"
"""Field of the timestamp metadata: when it was signed, whole seconds since 1970."""

_KEYS = {"name", "version", "space", "parent_space", "bundle_sha256"}
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


@dataclass(frozen=True)
class Offer:
    """One published bundle. space, parent_space: names of embedding spaces. length (bytes), sha256: of its archive."""

    name: str
    version: int
    space: str
    parent_space: str | None
    bundle_sha256: str
    length: int
    sha256: str

    @property
    def path(self) -> str:
        """Its name in the repository."""
        return archive_name(self.name, self.version)

    def custom(self) -> dict[str, Any]:
        """What the targets metadata says beside length and hash."""
        return {key: getattr(self, key) for key in sorted(_KEYS)}

    def require(self, bundle: Bundle) -> None:
        """Raise TrustError unless ``bundle`` is what was offered."""
        got = (bundle.name, bundle.version, bundle.space.sha256, bundle.sha256)
        if got != (self.name, self.version, self.space, self.bundle_sha256):
            raise TrustError(
                f"the archive holds bundle {bundle.name} {bundle.version} ({bundle.sha256[:12]}), but {self.name} "
                f"{self.version} ({self.bundle_sha256[:12]}) was signed; nothing of it is used",
                "wrong-hash",
            )


def read_offer(path: str, length: int, sha256: str | None, custom: Mapping[str, Any] | None) -> Offer:
    """Read one target of the signed metadata. Raises TrustError, kind ``malformed``."""
    try:
        if not isinstance(custom, Mapping) or custom.keys() != _KEYS:
            raise ValueError("it does not say what it is")
        name, version, parent = custom["name"], custom["version"], custom["parent_space"]
        if not isinstance(name, str) or not _NAME.match(name) or ".." in name or path != archive_name(name, version):
            raise ValueError("its name does not fit")
        if type(version) is not int or not 1 <= version <= 2**31:
            raise ValueError("its version is no number")
        hashes = [custom["space"], custom["bundle_sha256"], sha256, *([] if parent is None else [parent])]
        if not all(isinstance(value, str) and _HASH.match(value) for value in hashes):
            raise ValueError("a hash is none")
    except ValueError as error:
        raise TrustError(
            f"the signed entry {path!r:.120} cannot be understood ({error}); update soundkeep", "malformed"
        ) from None
    return Offer(name, version, custom["space"], parent, custom["bundle_sha256"], length, str(sha256))
