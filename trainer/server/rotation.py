"""New keys for old ones: a new root file, signed by the old root keys, says which keys count from now on."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.metadata import Root  # type: ignore[attr-defined]

from edge.durable import remove_file
from edge.errors import ConfigurationError
from trainer.server.repository_files import VALID_SECONDS, KeyAbsentError, locked, open_change, signed_by, valid_until
from trainer.server.signing_keys import (
    MAX_ROOT_KEYS,
    ONLINE_ROLES,
    Passphrase,
    environment_passphrase,
    find_keys,
    online_folder,
    take_key,
)


def rotate(
    data_dir: Path,
    role: str,
    key_folders: Sequence[Path],
    *,
    out: Path | None = None,
    n_root_keys: int = 1,
    threshold: int = 1,
    passphrase: Passphrase = environment_passphrase,
    now: float | None = None,
) -> int:
    """Replace the keys of ``role`` by new ones, which the root keys vouch for. Returns the version of the new root.

    key_folders: where the root keys are, and for ``targets`` the old targets key where it is not lost. out: where new
    offline keys go, by default the first of key_folders. n_root_keys, threshold: of the new root keys.
    What the old keys signed last is signed by the new ones too before the new root is published, so that devices follow
    at every moment. Files of keys that serve no longer are removed from the folders.
    """
    if role not in VALID_SECONDS or not 1 <= threshold <= n_root_keys <= MAX_ROOT_KEYS:
        raise ConfigurationError(
            f"{role!r} with {threshold} of {n_root_keys} keys cannot be; wanted root, targets, snapshot or timestamp, "
            "and no higher threshold than there are keys"
        )
    with locked(data_dir):
        change = open_change(data_dir, time.time() if now is None else now)
        old = change.root.signed
        root_signers = _root_signers(old, key_folders, passphrase)
        new = copy.deepcopy(old)
        new.version, new.expires = old.version + 1, valid_until(change.now, "root")
        online = role in ONLINE_ROLES
        folder = online_folder(data_dir) if online else (out or key_folders[0])
        files = (
            [f"root-{i + 1}-{new.version}.pem" for i in range(n_root_keys)]
            if role == "root"
            else [f"{role}-{new.version}.pem"]
        )
        made = [take_key(folder / name, None if online else passphrase()) for name in files]
        before = find_keys([online_folder(data_dir)] if online else key_folders, old.roles[role].keyids, passphrase)
        for keyid in list(old.roles[role].keyids):
            new.revoke_key(keyid, role)
        for signer in made:
            new.add_key(signer.public_key, role)
        new.roles[role].threshold = threshold if role == "root" else 1
        signers = [signer for _, signer in before.values()] + made
        signed = signed_by(new, [*root_signers, *(made if role == "root" else [])])
        if role == "root":
            change.write_root(signed)
        else:
            change.also[role] = made
            change.targets_signers = signers if role == "targets" else []
            change.write(targets=role == "targets", snapshot=role == "snapshot", root=signed)
        for path, _ in before.values():
            remove_file(path)
        return new.version


def _root_signers(root: Root, folders: Sequence[Path], passphrase: Passphrase) -> list[CryptoSigner]:
    role, named = root.roles["root"], ", ".join(str(folder) for folder in folders)
    found = find_keys(folders, role.keyids, passphrase)
    if len(found) < role.threshold:
        raise KeyAbsentError(
            f"{len(found)} of the root keys lie in {named}; wanted {role.threshold}: name with --keys every folder "
            "that holds one"
        )
    return [signer for _, signer in found.values()]
