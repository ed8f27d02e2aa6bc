"""Downloads that resume, are verified before they are used, and never change silently afterwards.

A cache folder holds one folder per name of the catalogue: the files, and ``lock.json`` with the revision and the
SHA-256 of each as first accepted. What the catalogue knows must match it; what it does not know must match the lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import BundleError
from trainer.backbones.catalogue import HUB, MAX_BYTES, Published

if TYPE_CHECKING:
    import httpx

LOCK = "lock.json"
CHUNK = 1 << 20
ATTEMPTS = 5
TIMEOUT_S = 30.0


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """SOUNDKEEP_CACHE, else the user's own cache folder."""
    if environ.get("SOUNDKEEP_CACHE"):
        return Path(environ["SOUNDKEEP_CACHE"])
    import platformdirs

    return platformdirs.user_cache_path("soundkeep")


@dataclass(frozen=True)
class Lock:
    """What was accepted first. revision: of the hub, None when it came from a file. sha256: by file name."""

    revision: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)


def folder_of(entry: Published, cache: Path) -> Path:
    return cache / "backbones" / entry.name


def lock_of(entry: Published, cache: Path) -> Lock:
    """The lock of a name; an empty one before the first fetch. Raises BundleError when it cannot be read."""
    path = folder_of(entry, cache) / LOCK
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Lock(values["revision"], {str(k): str(v) for k, v in values["sha256"].items()})
    except FileNotFoundError:
        return Lock()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise BundleError(f"{path} cannot be read ({e}); delete {path.parent} and fetch {entry.name} again") from e


def fetched(entry: Published, cache: Path) -> Path:
    """The verified file of weights in the cache. Raises BundleError when it is not there or was altered."""
    path = folder_of(entry, cache) / entry.file
    if not path.is_file():
        raise BundleError(
            f"{entry.name} is not in {cache}; run `soundkeep-trainer backbone fetch {entry.name}`, or give its file"
        )
    lock = lock_of(entry, cache)
    for name, known in entry.hashes.items():
        file, wanted = path.with_name(name), known or lock.sha256.get(name)
        if file.is_file() and (got := sha256_of(file)) != wanted:
            raise BundleError(
                f"{file} has SHA-256 {got}; wanted {wanted or 'one that was accepted'}; delete {path.parent} and fetch "
                f"{entry.name} again"
            )
    return path


def fetch(
    entry: Published,
    cache: Path,
    *,
    source: Path | None = None,
    endpoint: str | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Path:
    """Bring every file of ``entry`` into the cache and return the file of weights.

    source: a file of weights to copy instead of downloading; the small files beside it are taken along. endpoint: of
    the hub, HF_ENDPOINT or the public one when not given. wait: called with seconds before another attempt.
    Raises BundleError when a file cannot be had or has another SHA-256 than it must.
    """
    folder = folder_of(entry, cache)
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_of(entry, cache)
    revision, hashes = entry.revision or lock.revision, dict(lock.sha256)
    for name, known in entry.hashes.items():
        wanted = known or hashes.get(name)
        target = folder / name
        if wanted is not None and target.is_file() and sha256_of(target) == wanted:
            hashes[name] = wanted
            continue
        part = folder / f"{name}.part"
        if source is not None:
            origin = source if name == entry.file else source.with_name(name)
            if name != entry.file and not origin.is_file():
                continue
            what = str(origin)
            shutil.copyfile(origin, part)
        else:
            what = _address(entry, name, revision, endpoint)
            found = _download(what, part, may_change=wanted is None, wait=wait)
            revision = revision or found
        got = sha256_of(part)
        if wanted is not None and got != wanted:
            _forget(part)
            raise BundleError(
                f"{what} has SHA-256 {got}; wanted {wanted}; it is not the {name} of {entry.name} that is meant"
                + ("" if known else f", or it was replaced since it was first fetched; delete {folder} to accept it")
            )
        part.replace(target)
        _forget(part)
        hashes[name] = got
    text = (
        json.dumps({"revision": lock.revision if source else revision, "sha256": hashes}, indent=1, sort_keys=True)
        + "\n"
    )
    temporary = folder / f"{LOCK}.tmp"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder / LOCK)
    return folder / entry.file


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _address(entry: Published, name: str, revision: str | None, endpoint: str | None) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(
        entry.repo,
        name,
        repo_type=entry.repo_type,
        revision=revision,
        endpoint=(endpoint or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/"),
    )


def _download(url: str, part: Path, *, may_change: bool, wait: Callable[[float], None]) -> str | None:
    """Bring ``url`` into ``part``, going on where an earlier attempt stopped. Returns the revision the hub names.

    may_change: nobody knows the hash, so what is there already counts only if the server still has the same version.
    """
    import httpx

    with httpx.Client(follow_redirects=True, timeout=TIMEOUT_S) as client:
        for attempt in range(ATTEMPTS):
            try:
                return _download_once(client, url, part, may_change=may_change)
            except httpx.HTTPStatusError as e:
                code = e.response.status_code
                if code < 500 and code != 429:
                    raise BundleError(
                        f"{url} answers {code}; open the address in a browser, or get the file another way and give it "
                        f"with --from"
                    ) from e
                reason = f"it answers {code}"
            except httpx.HTTPError as e:
                reason = str(e) or type(e).__name__
            if attempt + 1 < ATTEMPTS:
                wait(2.0**attempt)
    raise BundleError(
        f"{url} could not be had in {ATTEMPTS} attempts ({reason}); what came is kept: run the same command again "
        f"to go on, or give the file with --from"
    )


def _download_once(client: httpx.Client, url: str, part: Path, *, may_change: bool) -> str | None:
    from tqdm import tqdm

    version = part.with_name(f"{part.name}.etag")
    tag = version.read_text(encoding="utf-8") if version.is_file() else ""
    have = part.stat().st_size if part.is_file() and (tag or not may_change) else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": tag} if may_change else {})
    with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == 416:  # nothing is left to send: the hash decides
            return _revision(answer)
        answer.raise_for_status()
        resumes = answer.status_code == 206
        have = have if resumes else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        if total is not None and total > MAX_BYTES:
            raise BundleError(f"{url} has {total} bytes; wanted at most {MAX_BYTES}; it is no backbone known here")
        version.write_text(answer.headers.get("ETag", ""), encoding="utf-8")
        bar: Any = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=None)
        with bar, part.open("ab" if resumes else "wb") as file:
            for block in answer.iter_raw():  # as it comes: what a break would leave in a buffer would be lost
                have += len(block)
                if have > MAX_BYTES:
                    raise BundleError(f"{url} goes on behind {MAX_BYTES} bytes; it is no backbone known here")
                file.write(block)
                bar.update(len(block))
    return _revision(answer)


def _revision(answer: httpx.Response) -> str | None:
    """The commit that the hub names in its first answer, before it sends us on to where the bytes lie."""
    for response in [*answer.history, answer]:
        commit = response.headers.get("X-Repo-Commit")
        if commit:
            return str(commit)
    return None


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.etag").unlink(missing_ok=True)
