"""``backbone``: list public backbones, fetch one, run one on a waveform or a filter bank."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.errors import BundleError, ConfigurationError
from trainer.backbones.catalogue import CATALOGUE, Published, published
from trainer.commands.paths import FILE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KIND_WORDS = ("eat", "beats", "ast")
EITHER = click.Path(path_type=Path, exists=True)
NEW_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def backbone() -> None:
    """List and fetch public backbones; run one on a waveform.

    Fetched files are kept in SOUNDKEEP_CACHE, else in your own cache folder.
    """


@backbone.command("list")
def list_backbones() -> None:
    """Say which public backbones are known, what is pinned of each, and which are here."""
    from trainer.backbones.fetch import cache_folder

    cache = cache_folder()
    for entry in CATALOGUE.values():
        click.echo("\n".join(_lines(entry, cache)))
    click.echo(f"kept in {cache / 'backbones'}", err=True)


def _lines(entry: Published, cache: Path) -> list[str]:
    from trainer.backbones.fetch import folder_of, lock_of

    here = (folder_of(entry, cache) / entry.file).is_file()
    lock = lock_of(entry, cache)
    if entry.revision is not None:
        revision = f"{entry.revision} (pinned)"
    elif lock.revision is not None:
        revision = f"{lock.revision} (as first fetched)"
    else:
        revision = "not known here: main at the first fetch, kept from then on"
    loose = [name for name, known in entry.hashes.items() if known is None]
    lines = [
        f"{entry.name}: {entry.kind}, licence {entry.licence}, {'fetched' if here else 'not fetched'}",
        f"    {entry.page}, file {entry.file}",
        f"    revision {revision}",
        f"    sha256 {entry.sha256 or lock.sha256.get(entry.file) or 'not known here: kept from the first fetch on'}",
    ]
    if loose:
        lines.append(f"    hash of {', '.join(loose)} not known here: kept from the first fetch on")
    return lines + [f"    {entry.remark}"] * bool(entry.remark)


@backbone.command("fetch")
@click.argument("name", metavar="NAME")
@click.option("--from", "source", type=FILE, help="Copy this file instead of downloading; its hash must be right too.")
def fetch_backbone(name: str, source: Path | None) -> None:
    """Download a backbone, verify it and keep it. NAME is one that `backbone list` says.

    A download that broke off goes on where it stopped when the command runs again.
    """
    from trainer.backbones.fetch import cache_folder, fetch

    entry = published(name)
    path = fetch(entry, cache_folder(), source=source)
    click.echo(str(path))


@backbone.command("tokens")
@click.argument("name", metavar="NAME")
@click.option(
    "--from", "source", type=EITHER, help="Published file, or folder that holds it; what was fetched when left out."
)
@click.option(
    "--input",
    "material",
    type=FILE,
    required=True,
    help="npz with waveform (n, samples) at 16 kHz in -1..1 or filterbank (n, frames, 128), both also without n.",
)
@click.option("--out", type=NEW_FILE, required=True, help="npz to write: filterbank and tokens, float32.")
@click.option("--kind", type=click.Choice(KIND_WORDS), help="Kind of the file, where NAME does not tell it.")
@click.option("--frames", type=click.IntRange(1), help="Frames that EAT or AST sees, cut or filled up to.")
def tokens_of(name: str, source: Path | None, material: Path, out: Path, kind: str | None, frames: int | None) -> None:
    """Write the tokens that a backbone's last block puts out. NAME is one of the list, or a kind: eat, beats or ast.

    The filter bank that goes into OUT is the natural log before it is filled up and normalised; one that comes from
    INPUT is taken as it is.
    """
    import numpy as np
    import torch

    from trainer.backbones.fetch import cache_folder, fetched
    from trainer.backbones.loading import open_published

    told = _kind_of(name, kind)
    if not out.parent.is_dir():
        raise ConfigurationError(f"--out names {out}, but {out.parent} is no folder; make it first, or name another")
    if source is None:
        source = fetched(published(name), cache_folder())
    inputs = _read(material)
    model, notes = open_published(source, kind=told, target_frames=frames)
    for note in notes:
        click.echo(f"left out of {source}: {note}", err=True)
    with torch.no_grad():
        if "filterbank" in inputs:
            bank = torch.from_numpy(inputs["filterbank"])
            if bank.shape[2] != model.description()["n_mels"]:
                raise ConfigurationError(
                    f"the filterbank in {material} has {bank.shape[2]} bands; wanted {model.description()['n_mels']}"
                )
        else:
            bank = model.features(torch.from_numpy(inputs["waveform"]))
        tokens = torch.cat([model.tokens(bank[i : i + 1]) for i in range(len(bank))]).numpy()
    if not np.isfinite(tokens).all():
        raise BundleError(f"the tokens of {material} are not finite; are the input and the weights?")
    temporary = out.with_name(f"{out.name}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, filterbank=bank.numpy().astype(np.float32), tokens=tokens.astype(np.float32))
    temporary.replace(out)
    shape = " x ".join(str(length) for length in tokens.shape)
    click.echo(f"{out}: {shape} tokens of {model.kind}, {model.n_weights()} weights", err=True)


def _kind_of(name: str, kind: str | None) -> str | None:
    if name in KIND_WORDS and name not in CATALOGUE:
        told: str | None = name
    elif name in CATALOGUE:
        told = CATALOGUE[name].kind
    elif kind is not None:
        told = kind
    else:
        raise ConfigurationError(
            f"there is no backbone {name!r}; wanted {', '.join(CATALOGUE)}, a kind ({', '.join(KIND_WORDS)}), or --kind"
        )
    if kind is not None and kind != told:
        raise ConfigurationError(f"{name} is of kind {told}, but --kind says {kind}; leave one out")
    return told


def _read(path: Path) -> Mapping[str, NDArray[np.float32]]:
    """``waveform`` (n, samples) or ``filterbank`` (n, frames, bands) from a npz, one item made a batch of one."""
    import numpy as np

    wanted = {"waveform": 2, "filterbank": 3}
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays: dict[str, Any] = {name: found[name] for name in wanted if name in found.files}
            names = list(found.files)
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as e:
        raise ConfigurationError(f"{path} is no npz of plain arrays ({e}); write it with numpy.savez") from e
    if len(arrays) != 1:
        raise ConfigurationError(
            f"{path} holds {', '.join(names) or 'nothing'}; wanted one of waveform and filterbank, not both"
        )
    ((name, array),) = arrays.items()
    if array.ndim not in (wanted[name] - 1, wanted[name]) or array.size == 0:
        raise ConfigurationError(
            f"{name} in {path} has shape {array.shape} of {array.dtype}; wanted {wanted[name] - 1} or {wanted[name]} "
            f"axes of float32, none empty"
        )
    if array.dtype.kind != "f":
        raise ConfigurationError(f"{name} in {path} is of {array.dtype}; wanted float32, a waveform in -1..1")
    batch = array.astype(np.float32).reshape(-1, *array.shape[-(wanted[name] - 1) :])
    if not np.isfinite(batch).all():
        raise ConfigurationError(f"{name} in {path} holds values that are not finite; wanted none")
    return {name: batch}
