"""One sync: poll, then the statement if the server's differs, then embeddings, then clips, then a look for bundles.

Every step may be cut anywhere and repeated: the statement is absolute, everything else is named by its content.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.errors import SyncError
from edge.sync.client import SignedClient
from edge.sync.device_file import Enrolment
from edge.sync.knowledge import Knowledge
from edge.sync.outbox import SETTLED, Outbox, Settled, no_crash
from edge.sync.pending import (
    BATCH_BYTES,
    MAX_WAITING_BYTES,
    WaitingItem,
    batches,
    clips_upload,
    embeddings_upload,
    waiting,
)
from edge.sync.retry import StoppedError, TryLaterError
from edge.sync.sharing import allows, understood_labels
from edge.sync.state_message import encode_state
from edge.sync.uploads import CHUNK_BYTES, Outcome, send_upload

MAX_STATEMENTS = 4
UPLOADED = ("state", "embeddings", "clips")
DEFAULT_MAX_UPLOAD = 1 << 30


@dataclass(frozen=True)
class SyncReport:
    """What one sync did. statement: created, duplicate, unchanged, rejected or none. n_refused: newly refused items."""

    statement: str
    n_embeddings: int
    n_clips: int
    n_refused: int
    n_dropped: int
    bytes_by_kind: Mapping[str, Mapping[str, int]]

    @property
    def words(self) -> str:
        up = sum(entry["up"] for entry in self.bytes_by_kind.values())
        sums = {
            "created": "the sums were sent",
            "duplicate": "the sums were there already",
            "unchanged": "the sums were there already",
            "rejected": "the server refused the sums",
        }.get(self.statement, "nothing is taught yet, so no sums were sent")
        more = [f"{n} {what}" for n, what in ((self.n_embeddings, "example(s)"), (self.n_clips, "clip(s)")) if n]
        refused = f"; {self.n_refused} item(s) refused, see `soundkeep sync status`" if self.n_refused else ""
        dropped = f"; {self.n_dropped} clip(s) left out for want of room" if self.n_dropped else ""
        return f"synced: {sums}{''.join(', ' + words for words in more)}, {up} bytes up{refused}{dropped}"


@dataclass
class Exchange:
    """The parts of a sync. knowledge: asked once, with the labels that stay here. about: version and bundle for the
    poll. offers: looks for new bundles, after everything was sent. unchanged: whether what may leave is still as the
    enrolment says; asked before anything leaves."""

    enrolment: Enrolment
    state_dir: Path
    client: SignedClient
    outbox: Outbox
    knowledge: Callable[[frozenset[str]], Knowledge]
    about: Mapping[str, Any]
    offers: Callable[[], None] | None = None
    unchanged: Callable[[], bool] = lambda: True
    crash_point: Callable[[str], None] = no_crash
    max_waiting_bytes: int = MAX_WAITING_BYTES
    batch_bytes: int = BATCH_BYTES
    _chunk_bytes: int = CHUNK_BYTES
    _max_upload: int = DEFAULT_MAX_UPLOAD
    _n_refused: int = 0
    _n_sent: dict[str, int] = field(default_factory=lambda: {"embeddings": 0, "clips": 0})

    def run(self) -> SyncReport:
        """Do it now. Raises TryLaterError (what is done is done; the rest goes on later), StoppedError, SyncError."""
        try:
            report = self._run()
        except StoppedError as error:
            self.outbox.put({"stopped": str(error), **self._audited()})
            raise
        except BaseException:
            self.outbox.put(self._audited())
            raise
        self.outbox.put({"stopped": None, **self._audited()})
        return report

    def _audited(self) -> dict[str, Any]:
        """What this sync sent, and, if it told anything that was learnt, that it is the last one that did."""
        by_kind = self.client.audit.by_kind
        told = {kind: by_kind[kind] for kind in UPLOADED if kind in by_kind}
        return {"audit": by_kind, **({"last_upload": {"time_s": time.time(), "by_kind": told}} if told else {})}

    def _run(self) -> SyncReport:
        answer = self._poll()
        private = frozenset(self.enrolment.private_labels) | understood_labels(answer.get("private_labels"))
        self.outbox.put({"server_private": sorted(private - set(self.enrolment.private_labels))})
        knowledge = self.knowledge(private)
        self._prune(knowledge)
        statement = self._statement(knowledge, answer)
        n_dropped = 0
        if statement in ("created", "duplicate", "unchanged"):
            pending = waiting(
                knowledge, self.enrolment.level, self.outbox, self.state_dir, max_bytes=self.max_waiting_bytes
            )
            n_dropped = len(pending.dropped)
            self.outbox.settle(Settled("clips", d.item, "dropped", None, d.n_bytes) for d in pending.dropped)
            for batch in batches(pending.embeddings, self.batch_bytes):
                self._send_embeddings(knowledge, batch)
            for batch in batches(pending.clips, self.batch_bytes):
                self._send_clips(batch)
        if self.offers is not None:
            self.offers()
        return SyncReport(
            statement, self._n_sent["embeddings"], self._n_sent["clips"], self._n_refused, n_dropped,
            self.client.audit.by_kind,
        )  # fmt: skip

    def _poll(self) -> Mapping[str, Any]:
        report = {**self.about, "setting": self.enrolment.level, "revision": self.outbox.get("revision", 0)}
        answer = self.client.poll(report)
        self.crash_point("poll-answered")
        limits = answer.get("limits")
        if isinstance(limits, dict):
            chunk, largest = limits.get("chunk_bytes"), limits.get("max_upload_bytes")
            self._chunk_bytes = min(CHUNK_BYTES, chunk) if type(chunk) is int and chunk >= 1024 else CHUNK_BYTES
            self._max_upload = largest if type(largest) is int and largest > 0 else DEFAULT_MAX_UPLOAD
        if answer.get("state") not in (self.outbox.get("state_sent"), self.outbox.get("state_taken")):
            self.outbox.forget_answers()  # the server is not where we left it: what it has may be gone
        return answer

    def _prune(self, knowledge: Knowledge) -> None:
        """Forget the answers to what is not told any more, before the server drops it: if it comes back, it is sent."""
        about = knowledge.records.about
        still = {"embeddings": set(knowledge.ids), "clips": {about(i).content_sha256 for i in knowledge.ids}}
        for kind, items in still.items():
            gone = self.outbox.settled(kind).keys() - items
            if gone:
                self.outbox.forget_items(kind, gone)

    # ---- the statement ----------------------------------------------------------------------------------------------

    def _statement(self, knowledge: Knowledge, answer: Mapping[str, Any]) -> str:
        if not allows(self.enrolment.level, "state") or (not knowledge.ids and answer.get("state") is None):
            return "none"
        print_now = _fingerprint(knowledge)
        revision = int(self.outbox.get("revision", 0))
        theirs = answer.get("revision")
        theirs = theirs if type(theirs) is int and theirs > 0 else 0
        if theirs > revision and answer.get("state") == _sha256(
            encode_state(theirs, knowledge.ids, knowledge.statistics)
        ):
            revision = theirs  # this outbox was lost, but not what it said
            self.outbox.put({"revision": theirs, "fingerprint": print_now})
        if self.outbox.get("fingerprint") != print_now or revision < 1:
            revision = self._revision_after(max(revision, theirs), print_now)
        for _ in range(MAX_STATEMENTS):
            data = encode_state(revision, knowledge.ids, knowledge.statistics)
            sha256 = _sha256(data)
            if answer.get("state") == sha256:
                self.outbox.put({"state_sent": sha256, "state_taken": sha256})
                return "unchanged"
            if theirs >= revision:
                revision, theirs = self._revision_after(theirs, print_now), 0
                continue
            refused = self.outbox.settled("state").get(sha256)
            if refused is not None and refused.result == "rejected":
                return "rejected"
            self.outbox.put({"state_sent": sha256})
            outcome = self._send("state", data)
            self.crash_point("statement-answered")
            if outcome.result == "superseded":
                revision = self._revision_after(max(outcome.revision, revision), print_now)
                continue
            self._settle_statement(sha256, outcome, len(data))
            return outcome.result
        raise SyncError("the server keeps naming a newer statement of this device; is the same key on two devices?")

    def _revision_after(self, revision: int, fingerprint: str) -> int:
        self.outbox.put({"revision": revision + 1, "fingerprint": fingerprint})
        self.crash_point("revision-kept")
        return revision + 1

    def _settle_statement(self, sha256: str, outcome: Outcome, n_bytes: int) -> None:
        self.outbox.forget_items("state", self.outbox.settled("state"))
        if outcome.result == "rejected":
            self._n_refused += 1
            self.outbox.settle([Settled("state", sha256, "rejected", outcome.reason, n_bytes)])
        else:
            self.outbox.put({"state_taken": sha256})

    # ---- embeddings and clips ---------------------------------------------------------------------------------------

    def _send_embeddings(self, knowledge: Knowledge, batch: Sequence[WaitingItem]) -> None:
        outcome = self._send("embeddings", embeddings_upload(knowledge, batch))
        if outcome.result == "rejected" and not outcome.items and len(batch) > 1:
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):  # one bad item must not take others along
                self._send_embeddings(knowledge, half)
            return
        self._settle("embeddings", batch, outcome)

    def _send_clips(self, batch: Sequence[WaitingItem]) -> None:
        has = self.outbox.settled("wavs").keys()
        data, wavs = clips_upload(batch, has)
        there = [item for item in batch if item.item in wavs]
        if not there:
            return
        outcome = self._send("clips", data)
        if outcome.result == "rejected" and not outcome.items and len(there) > 1:
            for half in (there[: len(there) // 2], there[len(there) // 2 :]):
                self._send_clips(half)
            return
        missing = [item for item in there if outcome.items.get(item.item) == "missing" and wavs[item.item] in has]
        if missing:  # the server let go of bytes that it had
            self.outbox.forget_items("wavs", [wavs[item.item] for item in missing])
            self._send_clips(missing)
        done = [item for item in there if item not in missing]
        self._settle("clips", done, outcome)
        taken = [i for i in done if outcome.items.get(i.item, outcome.result) in SETTLED]
        self.outbox.settle(Settled("wavs", wavs[i.item], "created") for i in taken)

    def _settle(self, kind: str, batch: Sequence[WaitingItem], outcome: Outcome) -> None:
        rows = []
        for item in batch:
            said = outcome.items.get(item.item, outcome.result)
            result, _, reason = said.partition(": ")
            if result in SETTLED:
                rows.append(Settled(kind, item.item, result, None, item.n_bytes))
                self._n_sent[kind] += 1
            else:
                self._n_refused += 1
                rows.append(Settled(kind, item.item, "rejected", reason or outcome.reason or said, item.n_bytes))
        self.outbox.settle(rows)
        self.crash_point("outcome-kept")

    def _send(self, kind: str, data: bytes) -> Outcome:
        if not self.unchanged():
            raise TryLaterError("what may leave this device was changed meanwhile; the next sync does as it says now")
        if len(data) > self._max_upload:
            return Outcome("rejected", f"{len(data)} bytes are more than the {self._max_upload} that the server takes")
        return send_upload(self.client, kind, data, chunk_bytes=self._chunk_bytes, crash_point=self.crash_point)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _fingerprint(knowledge: Knowledge) -> str:
    """Name what a statement says, whatever its revision."""
    said = [knowledge.statistics.space.sha256, knowledge.statistics.sha256, *knowledge.ids]
    return hashlib.sha256(json.dumps(said).encode("ascii")).hexdigest()
