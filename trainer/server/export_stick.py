"""The repository as a folder, for a USB stick or any web server, with a timestamp that lasts as long as one says.

Every week that it lasts is a week in which a device cannot tell that it is kept from newer bundles.
"""

from __future__ import annotations

import copy
from pathlib import Path

from edge.durable import prepare_file, publish_file, write_file
from edge.errors import ConfigurationError, StateError
from trainer.server.repository_files import (
    DAY,
    VALID_SECONDS,
    locked,
    moment,
    open_change,
    repository_folder,
    signed_by,
)

MAX_VALID_DAYS = 400


def export_repository(data_dir: Path, out: Path, valid_days: float, now: float) -> list[str]:
    """Copy the repository to ``out``, or bring an earlier copy there up to date. Returns the names of its files.

    The timestamp is written last: a stick pulled out half-way holds the old copy or the new one. Raises StateError,
    ConfigurationError.
    """
    if not 0 < valid_days <= MAX_VALID_DAYS:
        raise ConfigurationError(f"--valid-days is {valid_days:g}; wanted more than 0 and at most {MAX_VALID_DAYS}")
    timestamp, names = _sign_for_stick(data_dir, now, valid_days * DAY)
    try:
        for name in names:
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with (repository_folder(data_dir) / name).open("rb") as file:
                publish_file(prepare_file(target, iter(lambda: file.read(1 << 20), b""), mode=0o644), target)
        write_file(out / "metadata" / "timestamp.json", [timestamp], mode=0o644)
    except OSError as error:
        raise StateError(f"{out} cannot be written ({error.strerror}); make room or choose another folder") from error
    return [*names, "metadata/timestamp.json"]


def _sign_for_stick(data_dir: Path, now: float, valid_seconds: float) -> tuple[bytes, list[str]]:
    """Sign the state of now once for the server and once, with the odd version after it, for a stick.

    Returns the stick's timestamp.json, and the names of the metadata and target files that belong to it, in the order
    in which they are to be copied. Raises ConfigurationError when a signature made offline ends before valid_seconds.
    """
    with locked(data_dir):
        change = open_change(data_dir, now)
        change.require_clock()
        for role, signed in (("root", change.root.signed), ("targets", change.state.targets)):
            left = signed.expires.timestamp() - now
            if left < valid_seconds:
                raise ConfigurationError(
                    f"the {role} metadata is valid for {left / DAY:.0f} days more; choose fewer, or sign it anew with "
                    "'soundkeep-trainer keys rotate targets' and its offline keys"
                )
        change.write(snapshot=True, snapshot_seconds=max(valid_seconds, VALID_SECONDS["snapshot"]))
        state = change.state
        stick = copy.deepcopy(state.timestamp)
        stick.version, stick.expires = stick.version + 1, moment(now + valid_seconds)
        data = signed_by(stick, change.online_signers("timestamp")).to_bytes()
        names = [f"targets/{t.hashes['sha256']}.{t.path}" for t in state.targets.targets.values()]
        names += [f"metadata/{v}.root.json" for v in range(1, change.root.signed.version + 1)]
        names += [f"metadata/{state.targets.version}.targets.json", f"metadata/{state.snapshot.version}.snapshot.json"]
        return data, names
