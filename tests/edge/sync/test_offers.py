"""A bundle that cannot be taken yet is not prepared at every visit; one that is not what was signed is not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.bundle import Bundle, open_bundle
from edge.config import SyncSettings
from edge.errors import TrustError
from edge.sync import offers
from edge.sync.client import SignedClient
from edge.sync.device_file import SyncFolder
from edge.sync.fetcher import FolderFetcher
from edge.sync.offer import Offer
from edge.sync.offers import PUT_OFF_SECONDS, look_for_bundle, take_newest
from edge.sync.outbox import Outbox
from edge.sync.slots import load_slots
from edge.sync.upgrade import Considered, Upgrade
from tests.simulators.ears import write_ear
from tests.simulators.resync_server import ResyncServer
from trainer.server.repository import add_bundle, ensure_repository
from trainer.server.signing_keys import offline_folder


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    folder = tmp_path_factory.mktemp("ears")
    return write_ear(folder / "old", version=1), write_ear(folder / "new", version=2, seed=1)


@pytest.fixture(scope="module")
def fleet(ears: tuple[Bundle, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResyncServer]:
    data = tmp_path_factory.mktemp("fleet")
    ensure_repository(data)
    add_bundle(data, [offline_folder(data)], ears[1])
    with ResyncServer(data, ears[0].space, ears[1].space) as running:
        yield running


class Visitor:
    """Looks for bundles as the background does; ``consider`` counts, and never takes one."""

    def __init__(self, state: Path, fleet: ResyncServer, old: Bundle, new: Bundle) -> None:
        self.state, self.old, self.new, self.n_considered = state, old, new, 0
        self.folder = SyncFolder(state)
        self.server = fleet.url
        key = self.folder.key_to_enrol()
        with Outbox(self.folder.outbox_path) as outbox, SignedClient(self.server, key, outbox, insist=True) as client:
            _, root = client.enrol(fleet.token(), "kitchen")
        self.folder.save_root(root)

    def consider(self, archive_or_folder: Path, require: Callable[[Bundle], object]) -> Considered:
        self.n_considered += 1
        return Considered(self.new.name, self.new.version, self.new.sha256, "VERIFIED", "not yet")

    def visit(self, fingerprint: str, *, insist: bool = False) -> int:
        """One look; returns how many there were that considered the bundle."""
        with (
            Outbox(self.folder.outbox_path) as outbox,
            SignedClient(self.server, self.folder.key(), outbox, insist=True) as client,
        ):
            outbox.put({"fingerprint": fingerprint})
            look_for_bundle(client, outbox, self.state, self.old, self.consider, insist=insist)
        return self.n_considered


def test_what_cannot_be_taken_yet_is_put_off(
    quick: Path, fleet: ResyncServer, ears: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(offers.time, "time", lambda: clock[0])
    visitor = Visitor(quick / "state", fleet, *ears)
    assert [visitor.visit("a"), visitor.visit("a")] == [1, 1], "nothing changed, so nothing is proved again"
    assert visitor.visit("b") == 2, "something was taught"
    assert [visitor.visit("b"), visitor.visit("b", insist=True)] == [2, 3], "a person asked"
    clock[0] += PUT_OFF_SECONDS + 1.0
    assert visitor.visit("b") == 4, "a day went by"
    clock[0] = 500.0
    assert visitor.visit("b") == 5, "a clock that was set back delays nothing"


def test_an_archive_of_another_bundle_is_not_kept(
    quick: Path, fleet: ResyncServer, ears: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's tools cannot sign a name that does not fit; somebody with the key and other tools could."""
    old = ears[0]
    root = (fleet.data / "repository" / "metadata" / "1.root.json").read_bytes()
    require = Offer.require
    monkeypatch.setattr(Offer, "require", lambda offer, bundle: require(offer, open_bundle(old.path)))
    upgrade = Upgrade(quick / "state", SyncSettings())
    with pytest.raises(TrustError, match="was signed; nothing of it is used"):
        take_newest(FolderFetcher(fleet.data / "repository"), root, quick / "state", old, upgrade.consider)
    assert load_slots(quick / "state")[0].slots == {}
