"""Every refusal soundkeep makes, as one tree.

Each message says what, got, wanted and what to do next. ``exit_code`` is the command line's answer: 1 when the world
refused (a file, a device, a disk), 2 when the command itself was wrong.
"""

from __future__ import annotations


class SoundkeepError(Exception):
    """Base of all errors that a user can be told about in one sentence."""

    exit_code = 1


class MisuseError(SoundkeepError):
    """The request itself is wrong: an unusable label, an unknown class, contradictory options."""

    exit_code = 2


class LabelError(MisuseError):
    """A label is empty, too long, reserved, already taken or not known."""


class ConfigurationError(MisuseError):
    """A setting is unknown or out of range."""


class AudioError(SoundkeepError):
    """Audio cannot be read, holds nothing usable, or holds values that are not finite."""


class SilenceError(AudioError):
    """The audio is digital silence: there is no sound in it to learn."""


class DeviceError(SoundkeepError):
    """A capture device is missing, busy or refuses the format."""


class BundleError(SoundkeepError):
    """A backbone bundle is incomplete, altered or unusable."""


class SpaceMismatchError(SoundkeepError):
    """Two things from different embedding or feature spaces were brought together."""


class StatisticsOverflowError(SoundkeepError):
    """A result would leave the range in which float64 holds every integer exactly."""


class NotEnoughSamplesError(SoundkeepError):
    """A read-out needs more samples or classes than the statistics hold."""


class NotExactError(SoundkeepError):
    """The residual of a recursive head is too large to call it exact."""


class StateError(SoundkeepError):
    """The state directory cannot be used: read-only, full, of a newer version."""


class StateLockedError(StateError):
    """Another process writes this state directory."""


class CorruptionError(StateError):
    """Stored bytes do not match their hash."""


class MemoryFileError(SoundkeepError):
    """An exported memory file is truncated, altered or malformed."""


class ApiError(SoundkeepError):
    """The running listener refused a request or cannot be reached."""


class SyncError(SoundkeepError):
    """The server cannot be reached or refused, or something that came from the other end is malformed."""


class TrustError(SyncError):
    """Something that claims to come from the server is not signed by whom it must be, is too old, or was altered.

    kind: ``rollback``, ``freeze``, ``mix-and-match``, ``wrong-key``, ``wrong-hash``, ``malformed`` or ``endless``.
    """

    def __init__(self, sentence: str, kind: str = "malformed") -> None:
        super().__init__(sentence)
        self.kind = kind
