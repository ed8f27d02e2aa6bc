"""``keys``: who vouches for bundles."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trainer.commands.answers import Answers
from trainer.commands.devices import data_option

if TYPE_CHECKING:
    from trainer.server.signing_keys import Passphrase

NEW_DATA = click.Path(file_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
ROLES = click.Choice(["root", "targets", "snapshot", "timestamp"])


def keys_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--keys`` to a command that needs offline keys."""
    words = "Folder of offline keys, once for each folder; DATA/keys/offline where it is not given."
    return click.option("--keys", type=FOLDER, multiple=True, help=words)(command)


def asked_passphrase(*, confirm: bool = False) -> Passphrase:
    """Return how the passphrase is asked for: of the environment, else once on the terminal, else there is none."""
    from trainer.server.signing_keys import environment_passphrase

    @functools.cache
    def ask() -> bytes | None:
        given = environment_passphrase()
        if given is not None or not sys.stdin.isatty():
            return given
        text = "Passphrase of the offline keys" + (" (empty: none)" if confirm else "")
        answer: str = click.prompt(
            text, hide_input=True, default="", show_default=False, confirmation_prompt=confirm, err=True
        )
        return answer.encode("utf-8") or None

    return ask


@click.group()
def keys() -> None:
    """Make, show and rotate the keys that bundles are signed with.

    Keys of the roles root and targets belong on a medium that is kept elsewhere. Their files are encrypted when
    SOUNDKEEP_KEY_PASSPHRASE is set or a passphrase is typed.
    """


@keys.command()
@click.option("--data", type=NEW_DATA, required=True, help="The server's data folder; made where it is not there.")
@click.option("--keys", type=NEW_DATA, help="Where the offline keys go; by default DATA/keys/offline.")
@click.option("--root-keys", type=int, default=1, show_default=True, help="How many root keys are made.")
@click.option("--threshold", type=int, default=1, show_default=True, help="How many of them must sign a new root.")
@click.pass_obj
def make(answers: Answers, data: Path, keys: Path | None, root_keys: int, threshold: int) -> None:
    """Make the keys and an empty signed repository, before the first `serve`, which otherwise makes both itself."""
    from edge.errors import ConfigurationError
    from trainer.server.repository import ensure_repository
    from trainer.server.signing_keys import KEEP_ELSEWHERE, offline_folder

    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    passphrase = asked_passphrase(confirm=True)
    if not ensure_repository(data, keys_dir=keys, n_root_keys=root_keys, threshold=threshold, passphrase=passphrase):
        raise ConfigurationError(f"{data} has its keys already; `soundkeep-trainer keys rotate ROLE` replaces them")
    folder = keys or offline_folder(data)
    answers.answer({"offline": str(folder), "root_keys": root_keys, "threshold": threshold}, f"made keys in {folder}")
    answers.tell(KEEP_ELSEWHERE.format(folder=folder))


@keys.command()
@data_option
@keys_option
@click.pass_obj
def show(answers: Answers, data: Path, keys: tuple[Path, ...]) -> None:
    """Show which keys count, how long what they signed is valid, and which of them are here."""
    from trainer.server.repository import current
    from trainer.server.repository_files import latest_root
    from trainer.server.signing_keys import KEEP_ELSEWHERE, find_keys, offline_folder, online_folder

    metadata = current(data)
    folders = [online_folder(data), *(keys or [offline_folder(data)])]
    roles = latest_root(data).signed.roles
    ids = {key for role in roles.values() for key in role.keyids}
    found = find_keys(folders, ids, asked_passphrase())
    for role in ("root", "targets", "snapshot", "timestamp"):
        value: dict[str, Any] = {
            "role": role,
            "version": metadata[role].version,
            "threshold": roles[role].threshold,
            "expires": int(metadata[role].expires.timestamp()),
            "keys": {key: str(found[key][0]) if key in found else None for key in sorted(roles[role].keyids)},
        }
        answers.answer(value, "\n".join(_lines(value)))
    if any(path.parent == offline_folder(data) for path, _ in found.values()):
        answers.tell(KEEP_ELSEWHERE.format(folder=offline_folder(data)))


@keys.command()
@click.argument("role", metavar="ROLE", type=ROLES)
@data_option
@keys_option
@click.option("--out", type=NEW_DATA, help="Where new offline keys go; by default the first folder of --keys.")
@click.option("--root-keys", type=int, default=1, show_default=True, help="How many new root keys; for `root` only.")
@click.option(
    "--threshold", type=int, default=1, show_default=True, help="How many of them must sign; for `root` only."
)
@click.pass_obj
def rotate(
    answers: Answers, role: str, data: Path, keys: tuple[Path, ...], out: Path | None, root_keys: int, threshold: int
) -> None:
    """Replace the keys of ROLE: root, targets, snapshot or timestamp. Needs as many root keys as must sign.

    The files of the replaced keys are removed from the folders that are named; destroy their copies too.
    """
    from trainer.server.rotation import rotate as rotate_keys
    from trainer.server.signing_keys import offline_folder

    folders = list(keys) or [offline_folder(data)]
    version = rotate_keys(
        data, role, folders, out=out, n_root_keys=root_keys, threshold=threshold, passphrase=asked_passphrase()
    )
    answers.answer({"role": role, "root_version": version}, f"the {role} keys are new since root version {version}")
    answers.tell("destroy the copies of the old keys; a device learns of the new ones when it next asks for bundles")


def _lines(value: dict[str, Any]) -> list[str]:
    until = datetime.fromtimestamp(value["expires"], timezone.utc).date()
    of = f"{value['threshold']} of {len(value['keys'])} keys"
    head = f"{value['role']:<10} version {value['version']}, valid until {until}, {of}"
    return [head, *(f"    {key[:16]}  {where or 'not here'}" for key, where in value["keys"].items())]
