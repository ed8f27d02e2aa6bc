"""From a bundle that passed its gates to one that devices are offered, where the key that signs it is at hand."""

from __future__ import annotations

from pathlib import Path

from edge.errors import StateError
from trainer.server.opening import Server
from trainer.server.publishing import publish_bundle
from trainer.server.repository import offline_keys_present
from trainer.server.repository_files import repository_folder


def publish_if_keys(server: Server, sha256: str, keys_dir: Path | None) -> str | None:
    """Sign and publish a registered bundle; return what a person has to do where no key is here."""
    sentence = (
        f"the bundle passed its gates and waits for a signature: 'soundkeep-trainer bundles publish {sha256[:12]} "
        f"--data {server.data_dir} --keys DIR', with the folder of the offline keys"
    )
    if not (repository_folder(server.data_dir) / "metadata" / "1.root.json").exists():
        return sentence
    try:
        if not offline_keys_present(server.data_dir, keys_dir):
            return sentence
    except StateError as error:  # a passphrase that nobody gave
        return f"{sentence} ({error})"
    publish_bundle(server, sha256, keys_dir)
    return None
