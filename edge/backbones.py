"""Which backbone a device uses: the one named on the command line, else the one chosen before, else the shipped one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.bundle import Bundle, default_bundle_path, open_bundle, shipped_bundles_path
from edge.durable import write_file
from edge.errors import BundleError, StateError

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
    """Return the folder chosen by `backbone use`, else the shipped default."""
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
    """Verify a bundle and make it the one that is used from the next start on. Raises BundleError, StateError."""
    bundle = open_bundle(path)
    try:
        write_file(state_dir / CHOICE_NAME, [json.dumps({"path": str(path.absolute())}).encode("utf-8")])
    except OSError as error:
        raise StateError(f"{state_dir / CHOICE_NAME} cannot be written ({error.strerror}); make room") from error
    return {"name": bundle.name, "path": str(path.absolute())}


def open_backbone(state_dir: Path, option: str | None) -> Bundle:
    """Open and verify the backbone to use. option: value of --bundle, a folder or a listed name."""
    path = chosen_path(state_dir) if option is None else find_backbone(state_dir, option)
    if not path.is_dir():
        raise BundleError(
            f"the backbone folder {path} is missing; pass --bundle DIR or choose with `soundkeep backbone use`"
        )
    return open_bundle(path)
