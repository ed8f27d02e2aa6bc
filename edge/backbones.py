"""Which backbone a device uses: the one named on the command line, else the slot in use, else the one chosen before,
else the shipped one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.bundle import Bundle, default_bundle_path, open_bundle, shipped_bundles_path
from edge.durable import write_file
from edge.errors import BundleError, StateError
from edge.sync.slots import Slots, change_slots, load_slots

CHOICE_NAME = "backbone.json"
FOLDER_NAME = "backbones"
MAX_CHOICE_BYTES = 64 * 1024


@dataclass(frozen=True)
class FoundBackbone:
    """One bundle on this device. ``shipped``: inside the package, else imported into the state directory."""

    name: str
    path: Path
    shipped: bool


def imported_path(state_dir: Path, name: str) -> Path:
    """Where an imported backbone lives."""
    return state_dir / FOLDER_NAME / name


def list_backbones(state_dir: Path) -> list[FoundBackbone]:
    """Every bundle inside the package and in the state directory, by folder name; not verified here."""
    found = []
    for folder, shipped in ((shipped_bundles_path(), True), (state_dir / FOLDER_NAME, False)):
        if folder.is_dir():
            names = sorted(p.name for p in folder.iterdir() if (p / "manifest.json").is_file() and p.name[0] != ".")
            found += [FoundBackbone(name, folder / name, shipped) for name in names]
    return found


def find_backbone(state_dir: Path, name_or_dir: str) -> Path:
    """Return the folder of a listed name, or of a path. Raises BundleError when it is neither."""
    listed = {found.name: found.path for found in list_backbones(state_dir)}
    if name_or_dir in listed:
        return listed[name_or_dir]
    path = Path(name_or_dir).expanduser()
    if path.is_dir():
        return path.absolute()
    raise BundleError(
        f"there is no backbone {name_or_dir!r}; known are {', '.join(listed) or 'none'}; give one of these or a folder"
    )


def chosen_path(state_dir: Path) -> Path:
    """Return the folder of the slot in use, else the one chosen by `backbone use`, else the shipped default."""
    slots, _ = load_slots(state_dir)
    if slots.active is not None:
        return state_dir / slots.slots[slots.active].folder
    return _owner_path(state_dir)


def _owner_path(state_dir: Path) -> Path:
    path = state_dir / CHOICE_NAME
    try:
        with path.open("rb") as file:
            value: Any = json.loads(file.read(MAX_CHOICE_BYTES).decode("utf-8"))
        return Path(value["path"])
    except (FileNotFoundError, NotADirectoryError):
        return default_bundle_path()
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror}); make it readable, or pass --bundle DIR") from error
    except (ValueError, TypeError, KeyError) as error:
        raise StateError(f"{path} is damaged; choose again with `soundkeep backbone use NAME`") from error


def remember_backbone(state_dir: Path, path: Path) -> dict[str, Any]:
    """Verify a bundle and make it the one that is used from the next start on; a trial ends.

    Raises BundleError, StateError.
    """
    bundle = open_bundle(path)
    try:
        write_file(state_dir / CHOICE_NAME, [json.dumps({"path": str(path.absolute())}).encode("utf-8")])
    except OSError as error:
        raise StateError(f"{state_dir / CHOICE_NAME} cannot be written ({error.strerror}); make room") from error
    change_slots(state_dir, lambda slots: slots.owner_chose() if slots.active is not None else slots)
    return {"name": bundle.name, "path": str(path.absolute())}


def open_backbone(state_dir: Path, option: str | None) -> Bundle:
    """Open and verify the backbone to use. option: value of --bundle, a folder or a listed name."""
    return find_ear(state_dir, option).bundle


@dataclass(frozen=True)
class FoundEar:
    """The backbone in use. before: while it is on trial, the one to go back to. findings: what is wrong, in words."""

    bundle: Bundle
    before: Bundle | None = None
    findings: tuple[str, ...] = ()


def find_ear(state_dir: Path, option: str | None) -> FoundEar:
    """Open and verify the backbone to use: --bundle, else the slot in use, else the owner's choice, else the shipped.

    A slot that cannot be verified gives way to the one before it, in the end to the shipped one, and that is said.
    Raises BundleError, StateError.
    """
    if option is not None:
        return FoundEar(_open(find_backbone(state_dir, option)))
    slots, finding = load_slots(state_dir)
    findings = [] if finding is None else [finding]
    bundle, slots, wrong = _in_use(state_dir, slots)
    findings += wrong
    before = None
    if slots.trial is not None:
        before, _, wrong = _in_use(state_dir, slots.step_back())
        findings += wrong
    return FoundEar(bundle, before, tuple(findings))


def start_ear(state_dir: Path, option: str | None) -> FoundEar:
    """As ``find_ear``, for a listener that holds the state lock: a start with an ear on trial is counted first."""
    if option is not None:
        return find_ear(state_dir, option)
    slots, _ = load_slots(state_dir)
    counted = change_slots(state_dir, lambda slots: slots.start())
    said: tuple[str, ...] = ()
    if slots.trial is not None and counted.trial is None:
        reason = counted.slots[slots.trial.sha256].reason
        said = (f"the new ear {slots.trial.name} {slots.trial.version} was taken off again: {reason}",)
    found = find_ear(state_dir, None)
    if counted.trial is not None and found.before is None:
        unusable, why = counted.trial.sha256, "; ".join(found.findings)
        change_slots(state_dir, lambda slots: slots.move(unusable, "REJECTED", why))
    return FoundEar(found.bundle, found.before, (*said, *found.findings))


def _in_use(state_dir: Path, slots: Slots) -> tuple[Bundle, Slots, list[str]]:
    """Return the bundle in use, the slots as they are in fact, and what is wrong."""
    wrong: list[str] = []
    while slots.active is not None:
        slot = slots.slots.get(slots.active)
        try:
            if slot is None:
                raise BundleError(f"slot {slots.active[:12]} is not known")
            bundle = open_bundle(state_dir / slot.folder)
            if bundle.sha256 != slot.sha256:
                raise BundleError(f"{state_dir / slot.folder} holds another bundle than was verified")
            return bundle, slots, wrong
        except BundleError as error:
            wrong.append(f"the ear in use cannot be used any more: {error}; the one before it hears now")
            slots = slots.step_back()
    try:
        return _open(_owner_path(state_dir)), slots, wrong
    except BundleError as error:
        if not wrong:
            raise
        wrong.append(f"nor can the one before it: {error}; the ear that came with soundkeep hears now")
        return open_bundle(default_bundle_path()), slots, wrong


def _open(path: Path) -> Bundle:
    if not path.is_dir():
        raise BundleError(
            f"the backbone folder {path} is missing; pass --bundle DIR or choose with `soundkeep backbone use`"
        )
    return open_bundle(path)
