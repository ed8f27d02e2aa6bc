"""`soundkeep sync`: the exchange with one's own server, and what may leave this device."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge import __version__
from edge.commands.workbench import Workbench
from edge.errors import MisuseError, SyncError

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.ear import Ear
    from edge.sync.background import BackgroundSync
    from edge.sync.client import SignedClient
    from edge.sync.device_file import Enrolment
    from edge.sync.knowledge import Knowledge
    from edge.sync.outbox import Outbox
    from edge.sync.session import Offers
    from edge.sync.upgrade import Upgrade

MAX_SLOT_NAME = 40
"""Characters of a bundle's name in the poll, whose words have a hundred at most."""


@click.group()
def sync() -> None:
    """Exchange what was learnt with your own server."""


@sync.command()
@click.argument("url")
@click.argument("token")
@click.option("--share", "level", default="statistics", metavar="LEVEL", help="nothing|statistics|embeddings|clips")
@click.option("--name", help="What the server calls this device; the default is the name of this machine.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="PEM file to check the server against.")
@click.pass_obj
def enrol(bench: Workbench, url: str, token: str, level: str, name: str | None, ca: str | None) -> None:
    """Register this device at the server URL with a one-time TOKEN. Says what will leave before anything does."""
    from edge.sync.client import SignedClient
    from edge.sync.device_file import (
        MAX_NAME_CHARACTERS,
        Enrolment,
        SyncFolder,
        parse_server,
        require_root,
        root_hash_of,
    )
    from edge.sync.offers import read_root
    from edge.sync.outbox import Outbox
    from edge.sync.session import one_at_a_time
    from edge.sync.sharing import parse_level, words_of

    folder = SyncFolder(bench.state_dir)
    known = folder.load()
    if known is not None:
        raise MisuseError(f"this device is enrolled at {known.server} already; `soundkeep sync off` first")
    server, wanted_root, level = parse_server(url), root_hash_of(token), parse_level(level)
    bench.tell(words_of(level))
    called = (name or platform.node() or "device").strip()[:MAX_NAME_CHARACTERS]
    key = folder.key_to_enrol()
    if ca is not None:
        folder.save_ca(Path(ca).read_bytes())
    else:
        folder.ca_path.unlink(missing_ok=True)  # of an attempt that failed
    with (
        one_at_a_time(folder),
        Outbox(folder.outbox_path) as outbox,
        SignedClient(server, key, outbox, ca_path=folder.ca_path, insist=True) as client,
    ):
        device_id, root = client.enrol(token, called)
    require_root(root, wanted_root)
    if root and root != read_root(bench.state_dir):
        folder.forget_trust()
        folder.save_root(root)
    folder.save(Enrolment(server, device_id, called, level, hashlib.sha256(root).hexdigest() if root else ""))
    if wanted_root is None:
        bench.tell("the token carries no hash of the server's root: who answered at that address is taken on trust")
    answer = {"server": server, "device_id": device_id, "name": called, "level": level}
    bench.answer(
        answer, f"enrolled at {server} as {called} ({device_id[:12]}); level {level}; next: soundkeep sync now"
    )


@sync.command()
@click.option("--again", is_flag=True, help="Send once more what the server refused and what found no room.")
@click.pass_obj
def now(bench: Workbench, again: bool) -> None:
    """Sync now, beside a running listener or without one."""
    from edge.sync.session import about_device, sync_once

    enrolment = _enrolment(bench)
    if enrolment.level == "nothing":
        raise MisuseError("the level of sharing is nothing, so there is nothing to do; `soundkeep sync share LEVEL`")
    bundle = bench.bundle()
    with _knowledge_on_disk(bench, bundle) as knowledge:
        report = sync_once(
            bench.state_dir,
            enrolment,
            knowledge,
            about_device(__version__, bundle, slots_in_words(bench)),
            offers=_offers_beside(bench, bundle),
            again=again,
            insist=True,
            tell=bench.tell,
        )
    bench.answer({**asdict(report), "words": report.words}, report.words)


@sync.command()
@click.argument("source")
@click.option(
    "--root", type=click.Path(exists=True, dir_okay=False), help="The fleet's first root file, if not enrolled."
)
@click.pass_obj
def bundle(bench: Workbench, source: str, root: str | None) -> None:
    """Take the newest backbone from a copy of the repository: SOURCE is a folder (a USB stick) or an address.

    Only what the keys of the fleet signed is taken, wherever it comes from. Its trial begins with the next start of
    the listener.
    """
    from edge.sync.device_file import SyncFolder
    from edge.sync.fetcher import FolderFetcher, WebFetcher
    from edge.sync.offers import MAX_ROOT_BYTES, read_root, take_newest
    from edge.sync.session import one_at_a_time
    from edge.sync.upgrade import Upgrade

    fetcher = WebFetcher(source) if "://" in source else FolderFetcher(Path(source))
    folder, trusted = SyncFolder(bench.state_dir), read_root(bench.state_dir)
    given = None if root is None else Path(root).read_bytes()[:MAX_ROOT_BYTES]
    if trusted is not None and given not in (None, trusted):
        raise MisuseError(f"this device trusts another root file ({folder.root_path}); leave --root out")
    first = trusted or given
    if first is None:
        raise MisuseError(
            "this device has no root file to check a bundle against; give the fleet's with --root "
            "(DATA/repository/metadata/1.root.json of its server), from a person, not from where the bundle is"
        )
    if _is_listening(bench):
        raise MisuseError("a listener runs; end it first: the new backbone's trial begins with its next start")
    in_use = bench.bundle()
    upgrade = Upgrade(bench.state_dir, bench.settings().sync, tell=bench.tell)
    with one_at_a_time(folder):
        if trusted is None:
            folder.save_root(first)
        considered = take_newest(fetcher, first, bench.state_dir, in_use, upgrade.consider)
    if considered is None:
        words = f"nothing there is newer than {in_use.name} {in_use.version}, or it was tried before"
        bench.answer({"source": source, "taken": None}, words)
    else:
        bench.answer({"source": source, "taken": considered.to_json()}, considered.words)


@sync.command()
@click.pass_obj
def status(bench: Workbench) -> None:
    """Say what leaves this device, what waits, what was refused and why, and how much the last sync sent."""
    from edge.sync.device_file import SyncFolder
    from edge.sync.outbox import Outbox
    from edge.sync.pending import waiting
    from edge.sync.sharing import private_words, short_words_of, words_of

    folder = SyncFolder(bench.state_dir)
    enrolment = folder.load()
    if enrolment is None:
        slot = slot_word(bench)
        words = "not enrolled: nothing leaves this device; `soundkeep sync enrol URL TOKEN`"
        words += "" if slot == "none" else f"\nbackbone    from a stick or a server: {slot}"
        bench.answer({"enrolled": False, "slot": slot}, words)
        return
    with Outbox(folder.outbox_path) as outbox, _knowledge_on_disk(bench, bench.bundle()) as knowledge:
        hidden = frozenset(enrolment.private_labels) | frozenset(outbox.get("server_private") or ())
        told = knowledge(hidden)
        pending = waiting(told, enrolment.level, outbox, bench.state_dir)
        refused, dropped, audit = outbox.refused(), outbox.dropped(), outbox.get("audit") or {}
        answer: dict[str, Any] = {
            "enrolled": True,
            "server": enrolment.server,
            "device_id": enrolment.device_id,
            "name": enrolment.name,
            "level": enrolment.level,
            "level_words": words_of(enrolment.level),
            "private_labels": sorted(hidden),
            "last_success": outbox.get("last_success_s"),
            "last_words": outbox.get("last_words"),
            "stopped": outbox.get("stopped"),
            "waiting": {
                "n_records": len(told.ids),
                "n_embeddings": len(pending.embeddings),
                "n_clips": len(pending.clips),
                "n_bytes": pending.n_bytes,
            },
            "dropped": {"n": dropped[0], "n_bytes": dropped[1]},
            "refused": [{"kind": r.kind, "item": r.item, "reason": r.reason} for r in refused],
            "audit": audit,
            "last_upload": outbox.get("last_upload"),
            "budget_left": int(outbox.budget().tokens),
            "slot": slot_word(bench),
            "bundle_trouble": outbox.get("bundle_trouble"),
            "bundle_put_off": (outbox.get("put_off") or {}).get("words"),
            "findings": outbox.findings,
        }
    level = f"{enrolment.level}: {short_words_of(enrolment.level)}"
    bench.answer(answer, "\n".join(_status_words(answer, level, private_words(hidden))))


@sync.command()
@click.pass_obj
def off(bench: Workbench) -> None:
    """Leave the server: remove key, enrolment and ledger from this device. What was learnt stays."""
    from edge.sync.device_file import SyncFolder
    from edge.sync.session import one_at_a_time

    folder = SyncFolder(bench.state_dir)
    if not folder.path.exists():
        raise MisuseError("this device is not enrolled; there is nothing to leave")
    with one_at_a_time(folder):
        try:
            enrolment = folder.load()
        except SyncError:
            enrolment = None
        folder.remove()
    words = "off: nothing leaves this device any more, and its key is gone."
    if enrolment is not None:
        words += (
            f" What {enrolment.server} has stays there until its operator removes it: "
            f"`soundkeep-trainer devices remove {enrolment.device_id}`"
        )
    answer = {
        "server": None if enrolment is None else enrolment.server,
        "device_id": None if enrolment is None else enrolment.device_id,
    }
    bench.answer(answer, words)


@sync.command()
@click.argument("level")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def share(bench: Workbench, level: str, yes: bool) -> None:
    """Choose what may leave: nothing, statistics, embeddings or clips. Says what that is, and asks when it is more."""
    from edge.sync.device_file import SyncFolder
    from edge.sync.sharing import LESS_LATER, LEVELS, parse_level, words_of

    enrolment, wanted = _enrolment(bench), parse_level(level)
    bench.tell(words_of(wanted))
    more = LEVELS.index(wanted) > LEVELS.index(enrolment.level)
    if more and not yes and not click.confirm("Let this leave the device?", default=False, err=True):
        raise MisuseError(f"nothing was changed; the level stays {enrolment.level}")
    if LEVELS.index(wanted) < LEVELS.index(enrolment.level):
        bench.tell(LESS_LATER)
    SyncFolder(bench.state_dir).save(replace(enrolment, level=wanted))
    bench.answer({"level": wanted, "before": enrolment.level}, f"level {wanted}")


@sync.command()
@click.argument("label")
@click.option("--off", "remove", is_flag=True, help="No longer private.")
@click.pass_obj
def private(bench: Workbench, label: str, remove: bool) -> None:
    """Keep LABEL on this device: neither its name nor what was taught under it leaves. The next sync takes it back."""
    from edge.sync.device_file import SyncFolder
    from edge.sync.sharing import parse_label, private_words

    enrolment, chosen = _enrolment(bench), parse_label(label)
    kept = (set(enrolment.private_labels) - {chosen}) if remove else {*enrolment.private_labels, chosen}
    SyncFolder(bench.state_dir).save(replace(enrolment, private_labels=tuple(sorted(kept))))
    bench.answer({"private_labels": sorted(kept)}, private_words(kept))


def background_sync(
    bench: Workbench, ear: Ear, call: Callable[[Callable[[], Any]], Any], upgrade: Upgrade
) -> BackgroundSync:
    """The thread that syncs while listening; it looks at the enrolment anew at each visit.

    While a new ear is on trial, what the ear before knows is told: the server hears of a new space when it is for good.
    No new backbone is looked for when the owner named one with --bundle.
    """
    from edge.sync.background import BackgroundSync
    from edge.sync.device_file import SyncFolder

    folder = SyncFolder(bench.state_dir)

    def visit(pause: Callable[[float], object]) -> str | None:
        enrolment = folder.load()
        if enrolment is None or enrolment.level == "nothing":
            return None
        from edge.sync.knowledge import from_learner
        from edge.sync.session import about_device, sync_once

        worn = ear.before or ear.worn
        old = worn.bundle if ear.before is None and bench.bundle_option is None else None
        return sync_once(
            bench.state_dir,
            enrolment,
            lambda hidden: from_learner(worn.learner, call, hidden),
            about_device(__version__, worn.bundle, slots_in_words(bench)),
            offers=None if old is None else _offers(bench, old, upgrade),
            sleep=pause,
            tell=bench.tell,
        ).words

    def who() -> tuple[str, str] | None:
        try:
            enrolment = folder.load()
        except SyncError:
            return None
        return None if enrolment is None else (enrolment.server, enrolment.device_id)

    return BackgroundSync(visit, tell=bench.tell, who=who)


def _offers(bench: Workbench, in_use: Bundle, upgrade: Upgrade, *, insist: bool = False) -> Offers:
    from edge.sync.offers import look_for_bundle

    def look(client: SignedClient, outbox: Outbox) -> None:
        look_for_bundle(client, outbox, bench.state_dir, in_use, upgrade.consider, bench.tell, insist=insist)

    return look


def _offers_beside(bench: Workbench, in_use: Bundle) -> Offers | None:
    """Without a listener a new backbone is prepared here; a running one takes it up itself at its next visit.

    Whoever names a backbone with --bundle wants that one: then none is looked for.
    """
    from edge.sync.upgrade import Upgrade

    if bench.bundle_option is not None or _is_listening(bench):
        return None
    upgrade = Upgrade(bench.state_dir, bench.settings().sync, tell=bench.tell)
    return _offers(bench, in_use, upgrade, insist=True)


def _is_listening(bench: Workbench) -> bool:
    """Whether a process holds the state directory: the lock says who lives."""
    from edge.errors import StateLockedError
    from edge.journal_file import LOCK
    from edge.state_lock import WriterLock

    lock = WriterLock(bench.state_dir / LOCK)
    try:
        lock.acquire()
    except StateLockedError:
        return True
    except OSError:
        return False
    lock.release()
    return False


def slot_word(bench: Workbench) -> str:
    """The state of the slot that the bundle in use runs in; "none" when it is the shipped or a chosen one."""
    from edge.sync.slots import load_slots

    slots, _ = load_slots(bench.state_dir)
    slot = slots.slots.get(slots.active or "")
    return "none" if slot is None else slot.state


def slots_in_words(bench: Workbench) -> str:
    """``slot_word``, and the newest bundle that was turned down since: the operator sees who refuses what."""
    from edge.sync.slots import load_slots

    slots, _ = load_slots(bench.state_dir)
    in_use = slots.slots.get(slots.active or "")
    word = "none" if in_use is None else in_use.state
    turned_down = [
        slot
        for slot in slots.slots.values()
        if slot.state in ("REJECTED", "ROLLED_BACK") and (in_use is None or slot.version > in_use.version)
    ]
    if not turned_down:
        return word
    newest = max(turned_down, key=lambda slot: slot.version)
    return f"{word}; {newest.name[:MAX_SLOT_NAME]} {newest.version} {newest.state}"


def _enrolment(bench: Workbench) -> Enrolment:
    from edge.sync.device_file import SyncFolder

    enrolment = SyncFolder(bench.state_dir).load()
    if enrolment is None:
        raise MisuseError("this device is not enrolled; `soundkeep sync enrol URL TOKEN`")
    return enrolment


@contextmanager
def _knowledge_on_disk(bench: Workbench, bundle: Bundle) -> Iterator[Callable[[frozenset[str]], Knowledge]]:
    from edge.journal import Journal
    from edge.space import FeatureSpace
    from edge.sync.knowledge import from_journal

    with Journal.open(bench.state_dir, space=bundle.space, read_only=True) as journal:
        bench.tell_findings(journal)
        yield lambda hidden: from_journal(journal, FeatureSpace(bundle.space), hidden)


def _status_words(answer: dict[str, Any], level: str, private: str) -> Iterator[str]:
    from datetime import datetime

    waits, at = answer["waiting"], answer["last_success"]
    yield f"server      {answer['server']}, as {answer['name']} ({answer['device_id'][:12]})"
    yield f"level       {level}"
    yield f"private     {private}"
    when = "never" if at is None else datetime.fromtimestamp(at).isoformat(" ", "seconds")
    yield f"last sync   {when}" + (f": {answer['last_words']}" if answer["last_words"] else "")
    if answer["stopped"]:
        yield f"STOPPED     {answer['stopped']}"
    yield (
        f"waiting     {waits['n_embeddings']} example(s) and {waits['n_clips']} clip(s), {waits['n_bytes']} bytes; the "
        f"sums of {waits['n_records']} example(s) go whenever they differ from the server's"
    )
    if answer["dropped"]["n"]:
        yield f"left out    {answer['dropped']['n']} clip(s), {answer['dropped']['n_bytes']} bytes: no room"
    for refused in answer["refused"]:
        yield f"refused     {refused['kind']} {refused['item'][:12]}: {refused['reason']}"
    yield from _audit_words("last sync sent", answer["audit"])
    if answer["last_upload"] and not answer["last_upload"]["by_kind"].keys() & answer["audit"].keys():
        when = datetime.fromtimestamp(answer["last_upload"]["time_s"]).isoformat(" ", "seconds")
        yield from _audit_words(f"last upload, {when}", answer["last_upload"]["by_kind"])
    yield f"budget      {answer['budget_left']} requests may still fail; 30 an hour come back"
    if answer["slot"] != "none":
        yield f"backbone    from the server: {answer['slot']}"
    for words in filter(None, (answer["bundle_trouble"], answer["bundle_put_off"])):
        yield f"backbone    {words}"
    yield from (f"finding     {finding}" for finding in answer["findings"])


def _audit_words(title: str, by_kind: dict[str, Any]) -> Iterator[str]:
    if by_kind:
        yield f"{title}:"
        for kind, entry in sorted(by_kind.items()):
            yield f"  {kind:<10} {entry['up']} bytes up, {entry['down']} down, {entry['requests']} request(s)"
