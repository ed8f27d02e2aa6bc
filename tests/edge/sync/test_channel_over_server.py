"""From `soundkeep-trainer bundles publish` to a verified archive on an enrolled device, over the real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.bundle import Bundle
from edge.bundle_archive import unpack_archive
from edge.errors import SyncError
from edge.first_load import prove_in_child
from edge.sync.channel import BundleChannel
from edge.sync.client import SignedClient
from edge.sync.device_file import SyncFolder
from edge.sync.fetcher import SignedFetcher, download
from edge.sync.outbox import Outbox
from tests.simulators.resync_server import ResyncServer
from trainer.cli import main
from trainer.server.devices import revoke_device
from trainer.server.opening import open_server


def operator(*words: str) -> None:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == 0, done.output


@contextmanager
def client_of(folder: SyncFolder, server: ResyncServer) -> Iterator[SignedClient]:
    with (
        Outbox(folder.outbox_path) as outbox,
        SignedClient(server.url, folder.key(), outbox, attempts=1, insist=True) as client,
    ):
        yield client


def test_a_published_bundle_reaches_an_enrolled_device(tmp_path: Path, small_bundle: Bundle) -> None:
    data, folder = tmp_path / "data", SyncFolder(tmp_path / "state")
    with ResyncServer(data, small_bundle.space) as server:
        operator("bundles", "add", str(small_bundle.path), "--data", str(data))
        operator("bundles", "publish", small_bundle.sha256, "--data", str(data))
        folder.key_to_enrol()
        with client_of(folder, server) as client:
            _, root = client.enrol(server.token(), "kitchen")
            folder.save_root(root)
            hint = client.poll({})["bundles"]
            channel = BundleChannel(
                folder.path / "trust", SignedFetcher(client), bootstrap=folder.root_path.read_bytes()
            )
            offer = channel.newest("small")
            assert offer is not None and hint == {"name": offer.name, "version": offer.version}
            partial = folder.path / "trust" / "downloads" / f"{offer.sha256}.partial"
            partial.parent.mkdir()
            whole = (data / "repository" / "targets" / f"{offer.sha256}.{offer.path}").read_bytes()
            partial.write_bytes(whole[:50_000])
            before = client.audit.by_kind["bundles"]["down"]
            archive = channel.download(offer)
            assert client.audit.by_kind["bundles"]["down"] - before < len(whole) - 50_000 + 2_000, "it went on"
            bundle = unpack_archive(archive, tmp_path / "slot")
            offer.require(bundle)
            assert bundle.sha256 == small_bundle.sha256 and prove_in_child(bundle).window_ms > 0.0

            operators_server = open_server(data)
            revoke_device(operators_server, folder.key().device_id, "lost")
            operators_server.close()
            for refused in (
                lambda: BundleChannel(folder.path / "trust", SignedFetcher(client), bootstrap=root).offers(),
                lambda: download(SignedFetcher(client), f"targets/{offer.sha256}.{offer.path}", tmp_path / "p", 10),
            ):
                with pytest.raises(SyncError, match=r"lost|revoked|does not serve"):
                    refused()
