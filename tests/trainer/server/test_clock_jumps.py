"""The clocks of server and device jump ten years between any two steps: all arrives, once, in its order (fault 8)."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from edge.journal import Journal
from edge.snapshot import sum_of
from edge.space import FeatureSpace
from tests.faults import repetitions
from tests.simulators.running_server import running_server
from tests.simulators.sync_device import SPACE, SyncDevice, heard
from trainer.server.database import reading, transaction
from trainer.server.enrolment import make_token
from trainer.server.keeper import Keeper
from trainer.server.opening import Server
from trainer.server.spaces import know_space
from trainer.server.tables import Clip, Embedded, State, Upload

YEARS = 10 * 365 * 86_400.0


@pytest.mark.faults
def test_both_clocks_jump_and_nothing_is_lost_or_doubled(
    any_engine_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, real = np.random.default_rng(8), time.time

    def jumping() -> float:
        return max(0.0, real() + float(rng.choice([-YEARS, 0.0, YEARS, -real()])))

    monkeypatch.setattr(time, "time", jumping)
    server = replace(any_engine_server, clock=jumping)
    with transaction(server.engine) as session:
        know_space(session, SPACE)
    device = SyncDevice(tmp_path / "state", level="clips", clip_bytes=1 << 30)
    keeper = Keeper(server, ())
    with running_server(server) as http:
        device_id = device.enrol(str(http.base_url).rstrip("/"), make_token(server))
        for i in range(repetitions(3, 50)):
            device.teach(heard("bell", 300 + i), heard("dog", 400 + i), audio=True)
            device.sync(insist=True, batch_bytes=40_000)
            keeper.round()  # what waited for a week goes, by a clock that is wrong
            device.sync(insist=True, batch_bytes=40_000)
    with Journal.open(device.state, space=SPACE, read_only=True) as journal:
        records = dict(journal.records())
    with reading(server.engine) as session:
        state = session.get(State, device_id)
        assert state is not None
        assert state.statistics_sha256 == sum_of(FeatureSpace(SPACE), records.values()).sha256
        assert sorted(session.scalars(select(Embedded.record_id))) == sorted(records)
        contents = sorted({record.content_sha256 for record in records.values()})
        assert sorted(session.scalars(select(Clip.content_sha256))) == contents
        assert session.scalars(select(Upload)).all() == []
