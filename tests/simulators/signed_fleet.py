"""A fleet's signed repository whose clock the test moves, and what a thief of its keys could sign."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata

from edge.bundle import Bundle
from edge.sync.channel import BundleChannel
from edge.sync.fetcher import Fetcher, FolderFetcher
from edge.sync.offer import Offer
from tests.simulators.small_backbone import onnx_model, write_small_bundle
from trainer.server.repository import add_bundle, ensure_repository, first_root_bytes, refresh_timestamp
from trainer.server.repository_files import open_change, repository_folder
from trainer.server.signing_keys import find_keys, key_files, offline_folder, online_folder, read_key

BEGIN = 1_800_000_000.0
DAY = 86_400.0


def tiny_bundle(folder: Path, version: int = 1, name: str = "tiny") -> Bundle:
    """A bundle of about two kilobytes."""
    from onnx import helper

    onnx = onnx_model([helper.make_node("Identity", ["x"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 8]}, {})
    shape: dict[str, Any] = {"window_length": 8, "hop_length": 4, "dim": 8, "input_name": "x", "output_name": "y"}
    return write_small_bundle(folder, onnx=onnx, name=name, version=version, **shape)


@dataclass
class SignedFleet:
    """folder: DATA is in it. now: seconds since 1970, for the server and for the devices that do not say otherwise."""

    folder: Path
    now: float = BEGIN
    n_root_keys: int = 1
    threshold: int = 1

    def __post_init__(self) -> None:
        ensure_repository(self.data, n_root_keys=self.n_root_keys, threshold=self.threshold, now=self.now)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def served(self) -> Path:
        return repository_folder(self.data)

    @property
    def keys(self) -> list[Path]:
        return [offline_folder(self.data)]

    def publish(self, version: int, name: str = "tiny") -> Offer:
        """Publish a bundle a day after what came before."""
        self.now += DAY
        bundle = tiny_bundle(self.folder / "made" / f"{name}-{version}", version, name)
        return add_bundle(self.data, self.keys, bundle, now=self.now)

    def refresh(self) -> None:
        refresh_timestamp(self.data, self.now, force=True)

    def copy(self, name: str) -> Path:
        """Return a copy of what is served at present."""
        out = self.folder / name
        shutil.copytree(self.served, out)
        return out

    def device(self, name: str, fetcher: Fetcher | Path | None = None, now: float | None = None) -> BundleChannel:
        """Return one look of the device ``name``, whose trust is kept between looks."""
        source = fetcher if fetcher is not None else self.served
        at = self.now if now is None else now
        return BundleChannel(
            self.folder / "devices" / name,
            FolderFetcher(source) if isinstance(source, Path) else source,
            bootstrap=first_root_bytes(self.data),
            now=lambda: at,
        )

    def forge(self, served: Path, role: str, change: Callable[[Any], None]) -> None:
        """Change the metadata of ``role`` in ``served`` and sign it with the fleet's own keys; its name stays.

        What names it is not changed: forge that too.
        """
        root = open_change(self.data, self.now).root.signed
        path = self.path_of(served, role)
        metadata: Any = Metadata.from_bytes(path.read_bytes())
        change(metadata.signed)
        metadata.signatures.clear()
        folders = [online_folder(self.data), *self.keys]
        for _, signer in find_keys(folders, root.roles[role].keyids).values():
            metadata.sign(signer, append=True)
        path.write_bytes(metadata.to_bytes())

    @staticmethod
    def path_of(served: Path, role: str) -> Path:
        """Return the file of ``role`` of the highest version."""
        if role == "timestamp":
            return served / "metadata" / "timestamp.json"
        return max(served.glob(f"metadata/*.{role}.json"), key=lambda path: int(path.name.partition(".")[0]))

    def all_keys(self) -> list[Any]:
        return [read_key(path) for path in key_files([online_folder(self.data), *self.keys])]
