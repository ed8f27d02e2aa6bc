"""Settings and the state directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.config import DecisionOverrides, Settings, decision_settings, load_settings, state_directory
from edge.errors import ConfigurationError
from edge.manifest import DetectionDefaults


def test_the_option_wins_over_the_environment_and_systemd_over_the_users_own() -> None:
    environ = {"SOUNDKEEP_STATE": "/a", "STATE_DIRECTORY": "/b:/c"}
    assert state_directory("/opt", environ) == Path("/opt")
    assert state_directory(None, environ) == Path("/a")
    assert state_directory(None, {"STATE_DIRECTORY": "/b:/c"}) == Path("/b")
    assert state_directory(None, {}).name == "soundkeep"


def test_a_relative_state_directory_is_made_absolute_and_an_empty_one_refused() -> None:
    assert state_directory("here", {}) == Path.cwd() / "here"
    with pytest.raises(ConfigurationError, match="empty path"):
        state_directory(" ", {})


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == Settings()
    assert load_settings(tmp_path / "not there") == Settings()


def test_a_file_overrides_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "soundkeep.toml").write_text(
        "[learn]\nridge = 4.0\n[decision]\nthreshold = 7\n[decision.per_class]\ndoorbell = 5.5\n"
    )
    settings = load_settings(tmp_path)
    assert settings.learn.ridge == 4.0
    assert settings.learn.idle_seconds == Settings().learn.idle_seconds
    assert settings.decision.per_class == {"doorbell": 5.5}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[lern]\n", "lern is not a setting; known are listen, api, learn, decision"),
        ("[learn]\nrigde = 1.0\n", "learn.rigde is not a setting; known are learn.ridge"),
        ("[learn]\nridge = 'much'\n", "learn.ridge is 'much'; wanted a number"),
        ("[learn]\ncalibrate_when_idle = 1\n", "wanted true or false"),
        ("[decision]\nk = true\n", "decision.k is True; wanted a number"),
        ("[decision]\nper_class = 3\n", "wanted a table"),
        ("[decision.per_class]\nbell = 'x'\n", "decision.per_class.bell is 'x'; wanted a finite number"),
        ("[listen]\nrecent_seconds = 0\n", "listen.recent_seconds is 0; wanted 1 to 3600"),
        ("listen = 3\n", "wanted a table"),
        ("[learn\n", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "soundkeep.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=sentence):
        load_settings(tmp_path)


def test_the_owner_wins_over_the_bundle_and_the_bundle_over_our_own() -> None:
    bundle = DetectionDefaults(threshold=9.0, low_threshold=8.0, hold_ms=100, ridge=2.0)
    settings = decision_settings(bundle, DecisionOverrides(threshold=10.0, per_class={"bell": 3.0}))
    assert (settings.threshold, settings.low_threshold, settings.hold_ms) == (10.0, 8.0, 100)
    assert settings.threshold_for("bell") == 3.0


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="could never stay open"):
        decision_settings(DetectionDefaults(), DecisionOverrides(threshold=1.0, low_threshold=2.0))
