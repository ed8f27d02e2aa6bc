"""The TUF repository that bundles are published in: ``DATA/repository/{metadata,targets}``, consistent snapshots."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.metadata import Metadata, Root, Signed, TargetFile  # type: ignore[attr-defined]

from edge.bundle import Bundle
from edge.bundle_archive import archive_bytes, archive_name
from edge.durable import flush_directory, prepare_file, remove_file
from edge.errors import ConfigurationError, StateError
from edge.sync.offer import Offer
from trainer.server.repository_files import (
    VALID_SECONDS,
    Change,
    KeyAbsentError,
    State,
    latest_root,
    locked,
    open_change,
    repository_folder,
    signed_by,
    valid_until,
)
from trainer.server.signing_keys import (
    MAX_ROOT_KEYS,
    ONLINE_ROLES,
    Passphrase,
    environment_passphrase,
    find_keys,
    offline_folder,
    online_folder,
    take_key,
)


def ensure_repository(
    data_dir: Path,
    *,
    keys_dir: Path | None = None,
    n_root_keys: int = 1,
    threshold: int = 1,
    passphrase: Passphrase = environment_passphrase,
    now: float | None = None,
) -> bool:
    """Make keys and an empty signed repository where there is none. Returns whether it was made now.

    keys_dir: where the offline keys go, by default DATA/keys/offline. threshold: how many of the root keys must sign.
    The first root file is written last: what is begun and not finished is taken up again.
    """
    if not 1 <= threshold <= n_root_keys <= MAX_ROOT_KEYS:
        raise ConfigurationError(
            f"{threshold} of {n_root_keys} root keys; wanted 1 to {MAX_ROOT_KEYS}, and no more than there are"
        )
    with locked(data_dir):
        if (repository_folder(data_dir) / "metadata" / "1.root.json").exists():
            return False
        for kind in ("metadata", "targets"):
            (repository_folder(data_dir) / kind).mkdir(exist_ok=True)
        offline, secret = keys_dir or offline_folder(data_dir), passphrase()
        root_keys = [take_key(offline / f"root-{i + 1}.pem", secret) for i in range(n_root_keys)]
        targets_key = take_key(offline / "targets.pem", secret)
        online = {role: take_key(online_folder(data_dir) / f"{role}.pem", None) for role in ONLINE_ROLES}
        root = Root(consistent_snapshot=True)
        for role, signers in {
            "root": root_keys,
            "targets": [targets_key],
            **{r: [s] for r, s in online.items()},
        }.items():
            for signer in signers:
                root.add_key(signer.public_key, role)
        root.roles["root"].threshold = threshold
        at = time.time() if now is None else now
        root.expires = valid_until(at, "root")
        state = State.empty()
        change = Change(data_dir, at, Metadata(root), state)
        change.targets_signers = [targets_key]
        change.write(root=signed_by(root, root_keys))
    return True


def first_root_bytes(data_dir: Path) -> bytes:
    """Return the first root file, with which a device's trust begins."""
    return (repository_folder(data_dir) / "metadata" / "1.root.json").read_bytes()


def refresh_timestamp(data_dir: Path, now: float, *, force: bool = False) -> bool:
    """Sign timestamp and snapshot again when half of their time is over. Returns whether anything was signed."""
    with locked(data_dir):
        change = open_change(data_dir, now)
        change.require_clock()
        ended = change.state.targets.expires
        if ended.timestamp() < now:
            raise StateError(
                f"the targets metadata ended on {ended:%Y-%m-%d}; correct the clock, or sign it anew with "
                "'soundkeep-trainer keys rotate targets' and its offline keys"
            )
        due = {
            role: force or signed.expires.timestamp() - now < VALID_SECONDS[role] / 2
            for role, signed in (("snapshot", change.state.snapshot), ("timestamp", change.state.timestamp))
        }
        if any(due.values()):
            change.write(snapshot=due["snapshot"])
        return any(due.values())


def add_bundle(
    data_dir: Path,
    key_folders: Sequence[Path],
    bundle: Bundle,
    parent_space: str | None = None,
    *,
    passphrase: Passphrase = environment_passphrase,
    now: float | None = None,
) -> Offer:
    """Sign and publish ``bundle``; once more changes nothing. parent_space: the space that it carries a map from.

    Raises KeyAbsentError without the targets key, ConfigurationError for a version that is not above those published.
    """
    with locked(data_dir):
        change = open_change(data_dir, time.time() if now is None else now)
        change.require_clock()
        signers = _targets_signers(change.root.signed, key_folders, passphrase)
        path = archive_name(bundle.name, bundle.version)
        published = change.state.targets.targets
        known = published.get(path)
        if known is not None and known.custom["bundle_sha256"] == bundle.sha256:
            return offer_of(known)
        above = max((t.custom["version"] for t in published.values() if t.custom["name"] == bundle.name), default=0)
        if bundle.version <= above:
            raise ConfigurationError(
                f"bundle {bundle.name} {bundle.version} cannot be published: {above} is; give it a higher version"
            )
        length, sha256 = _store_archive(repository_folder(data_dir) / "targets", bundle)
        offer = Offer(bundle.name, bundle.version, bundle.space.sha256, parent_space, bundle.sha256, length, sha256)
        published[path] = TargetFile(length, {"sha256": sha256}, path, {"custom": offer.custom()})
        change.targets_signers = signers
        change.write(targets=True)
        return offer


def withdraw_bundle(
    data_dir: Path,
    key_folders: Sequence[Path],
    name: str,
    version: int,
    *,
    passphrase: Passphrase = environment_passphrase,
    now: float | None = None,
) -> bool:
    """Offer a bundle no longer. Devices that took it keep it. Returns False when it was not offered."""
    with locked(data_dir):
        change = open_change(data_dir, time.time() if now is None else now)
        target = change.state.targets.targets.pop(archive_name(name, version), None)
        if target is None:
            return False
        change.require_clock()
        change.targets_signers = _targets_signers(change.root.signed, key_folders, passphrase)
        change.write(targets=True)
        remove_file(repository_folder(data_dir) / "targets" / f"{target.hashes['sha256']}.{target.path}")
        return True


def offers(data_dir: Path) -> list[Offer]:
    """Return what is published at present, by name and version."""
    targets = open_change(data_dir, 0.0).state.targets.targets.values()
    return sorted((offer_of(target) for target in targets), key=lambda offer: (offer.name, offer.version))


def offer_of(target: TargetFile) -> Offer:
    return Offer(**target.custom, length=target.length, sha256=target.hashes["sha256"])


def offline_keys_present(
    data_dir: Path, keys_dir: Path | None = None, *, passphrase: Passphrase = environment_passphrase
) -> bool:
    """Whether the targets key lies in ``keys_dir``, by default DATA/keys/offline, and can be read."""
    root = latest_root(data_dir).signed
    return bool(find_keys([keys_dir or offline_folder(data_dir)], root.roles["targets"].keyids, passphrase))


def current(data_dir: Path) -> dict[str, Signed]:
    """Return the metadata in force, by role."""
    change = open_change(data_dir, 0.0)
    state = change.state
    return {
        "root": change.root.signed,
        "targets": state.targets,
        "snapshot": state.snapshot,
        "timestamp": state.timestamp,
    }


def _targets_signers(root: Root, folders: Sequence[Path], passphrase: Passphrase) -> list[CryptoSigner]:
    found = find_keys(folders, root.roles["targets"].keyids, passphrase)
    if not found:
        named = ", ".join(str(folder) for folder in folders)
        raise KeyAbsentError(f"the targets key is not in {named}; name the folder that holds it with --keys")
    return [signer for _, signer in found.values()]


def _store_archive(folder: Path, bundle: Bundle) -> tuple[int, str]:
    """Write the archive under the name of its hash; returns its length and SHA-256."""
    digest, length = hashlib.sha256(), 0

    def hashed() -> Iterator[bytes]:
        nonlocal length
        for piece in archive_bytes(bundle):
            digest.update(piece)
            length += len(piece)
            yield piece

    name = archive_name(bundle.name, bundle.version)
    try:
        beside = prepare_file(folder / name, hashed(), mode=0o644)
        os.replace(beside, folder / f"{digest.hexdigest()}.{name}")
        flush_directory(folder)
    except OSError as error:
        raise StateError(f"{folder / name} cannot be written ({error.strerror}); make room") from error
    return length, digest.hexdigest()
