"""The same commands with the same answers, whether the learner is in this process or behind the live API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.api import make_app
from edge.api_guard import Guard
from edge.api_server import ApiServer, bind
from edge.client import ListenerClient
from edge.clips import ClipStore
from edge.config import ApiSettings
from edge.desk import Desk, LocalDesk
from edge.errors import MisuseError, SoundkeepError
from edge.hearing import Example, hear, sounding_example
from edge.journal import Journal
from edge.learner import Learner
from edge.memory_file import encode_memory
from edge.presence import Presence
from edge.space import FeatureSpace
from tests.bundles import SPACE, TONES, SpectrumEmbedder, background_of, tone, write_tiny_bundle
from tests.simulators.running_listener import running_listener


@contextmanager
def local(state: Path) -> Iterator[tuple[Desk, Learner]]:
    with Journal.open(state, space=SPACE) as journal:
        learner = Learner(journal, FeatureSpace(SPACE), prior=background_of(SpectrumEmbedder()))
        yield LocalDesk(learner, clips=ClipStore(state, max_bytes=10**6)), learner


@contextmanager
def remote(state: Path) -> Iterator[tuple[Desk, Learner]]:
    with ExitStack() as stack:
        run = stack.enter_context(running_listener(state))
        run.live._clips = ClipStore(state, max_bytes=10**6)
        bound = bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        app = make_app(run.live, Guard("t", "127.0.0.1", port), ApiSettings())
        stack.enter_context(ApiServer(app, bound))
        client = stack.enter_context(ListenerClient(Presence(1, "127.0.0.1", port, "t", SPACE.sha256)))
        yield client, run.learner


def example(name: str, seed: int) -> Example:
    sound = tone(TONES[name], 1.0, np.random.default_rng(seed))
    heard = hear(sound, SpectrumEmbedder(), keep_audio=True)
    return sounding_example(heard, {"file": f"{name}{seed}.wav"})


def without_clock(answer: Any) -> Any:
    return {k: v for k, v in answer.items() if k not in ("time", "seq")} if isinstance(answer, dict) else answer


def tell_a_story(desk: Desk, learner: Learner, ear: Path) -> list[Any]:
    """Every command once, and what each refuses; the answers in order."""
    answers: list[Any] = [
        desk.teach(" bell ", [example("bell", 1), example("bell", 2)]),
        desk.teach("bell", [example("bell", 1)]),
        desk.teach("hum", [example("hum", 1)]),
        desk.ignore([example("beep", 1)]),
        desk.rename("hum", "fridge"),
        desk.enable("fridge", False),
        desk.merge_classes("fridge", "bell"),
        desk.undo(),
    ]
    memory = encode_memory(SPACE, learner.records)
    record = answers[0]["records"][1]["id"]
    answers += [
        desk.forget_record(record[:12]),
        desk.forget("bell"),
        desk.import_memory(memory),
        desk.forget("bell", purge=True),
        desk.use_backbone(str(ear)),
    ]
    for refused in (
        lambda: desk.teach("", [example("bell", 3)]),
        lambda: desk.forget("never"),
        lambda: desk.forget_record("0" * 64),
        lambda: desk.rename("fridge", ""),
        lambda: desk.merge_classes("fridge", "fridge"),
        lambda: desk.enable("never", True),
        lambda: desk.import_memory(b"nothing"),
        lambda: desk.use_backbone("/no/such"),
    ):
        with pytest.raises(SoundkeepError) as refusal:
            refused()
        answers.append((str(refusal.value), refusal.value.exit_code))
    return [without_clock(answer) for answer in answers] + [learner.statistics_sha256]


def test_both_desks_do_and_say_the_same(tmp_path: Path) -> None:
    ear = write_tiny_bundle(tmp_path / "ear").path
    stories = []
    for name, open_desk in (("local", local), ("remote", remote)):
        with open_desk(tmp_path / name) as (desk, learner):
            stories.append(tell_a_story(desk, learner, ear))
    assert stories[0] == stories[1]
    assert stories[0][0]["label"] == "bell" and stories[0][1]["records"][0]["new"] is False


@pytest.mark.parametrize("open_desk", [local, remote])
def test_clips_are_kept_with_their_examples_where_the_owner_gave_a_budget(tmp_path: Path, open_desk: Any) -> None:
    with open_desk(tmp_path) as (desk, learner):
        desk.teach("bell", [example("bell", 1)])
        (record,) = learner.records.values()
        kept = ClipStore(tmp_path).load(record.content_sha256)
        assert kept is not None and kept[1] == SPACE.sample_rate
        original = example("bell", 1).samples
        assert original is not None
        np.testing.assert_allclose(kept[0], original, atol=2.0**-15)
        desk.forget("bell", purge=True)
        assert ClipStore(tmp_path).contents() == ()


def test_misuse_stays_misuse_across_the_api(tmp_path: Path) -> None:
    with remote(tmp_path) as (desk, _), pytest.raises(MisuseError, match="never"):
        desk.forget("never")
