"""The status page: one plain HTML text with everything the operator wants to see. No script, nothing fetched."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select

from edge import __version__
from trainer.server.database import reading
from trainer.server.devices import describe_devices
from trainer.server.opening import Server
from trainer.server.tables import Job, PublishedBundle, Refusal

MAX_ROWS = 50
_MAX_LABELS = 12

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5d6878; --paper: #fbfbf9; --card: #ffffff; --line: #e2e4e0;
  --good: #1d7a4c; --warn: #9a5b00; --bad: #b3261e; --tint: #f1f3ef; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #98a3b3; --paper: #14171c; --card: #1b1f26;
  --line: #2c323c; --good: #63c793; --warn: #e0a94f; --bad: #f2857c; --tint: #222730; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; }
main { max-width: 78rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem; margin-bottom: 1.25rem; }
h1 { font-size: 1.5rem; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
.soft, .none { color: var(--soft); } .none { margin: 0; }
.sums { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 0; }
.sums div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .9rem; }
.sums dt { color: var(--soft); font-size: .85rem; } .sums dd { margin: 0; font-size: 1.45rem; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .55rem .8rem; border-bottom: 1px solid var(--line); vertical-align: top;
  max-width: 34rem; unicode-bidi: isolate; }
td:has(> bdi) { min-width: 8rem; }
td:has(> .label) { min-width: 18rem; }
summary { padding: .55rem .8rem; cursor: pointer; }
bdi { display: inline-block; max-width: 16rem; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; font-size: .82rem; white-space: nowrap; background: var(--tint); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
code { font: .86em ui-monospace, "DejaVu Sans Mono", monospace; color: var(--soft); }
.why { color: var(--soft); max-width: 34rem; overflow-wrap: anywhere; }
.word { font-weight: 600; white-space: nowrap; } .word::before { content: "\\25CF\\00a0"; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); } .plain { color: var(--soft); }
.label { display: inline-block; background: var(--tint); border-radius: .4rem; padding: 0 .4rem;
  margin: .1rem .15rem 0 0; overflow-wrap: anywhere; }
"""

_TONE = {
    "active": "good", "quarantined": "bad", "revoked": "bad",
    "queued": "plain", "running": "warn", "unsigned": "warn", "done": "good", "failed": "bad", "cancelled": "plain",
    "candidate": "warn", "published": "good", "refused": "bad", "withdrawn": "plain",
}  # fmt: skip


def status_page(server: Server) -> str:
    """Return the page as HTML; everything that came from outside is escaped."""
    with reading(server.engine) as session:
        devices = describe_devices(session)
        jobs = session.scalars(select(Job).order_by(Job.id.desc()).limit(MAX_ROWS)).all()
        bundles = session.scalars(
            select(PublishedBundle).order_by(PublishedBundle.created_at.desc()).limit(MAX_ROWS)
        ).all()
        refusals = session.scalars(select(Refusal).order_by(Refusal.id.desc()).limit(MAX_ROWS)).all()
    now = server.clock()
    names = {device["id"]: device["name"] for device in devices}
    parts = [
        _sums(devices, now),
        _section(
            "Devices",
            ("Device", "State", "Last sync", "Bundle", "Shares", "Statement", "Kept here"),
            [_device_row(device, now) for device in sorted(devices, key=_urgency)],
            "No device is enrolled yet. Give one the token that this server printed: soundkeep sync enrol URL TOKEN",
        ),
        _section(
            "Jobs",
            ("Job", "State", "Stage", "Begun", "Asked by", "What came of it"),
            [_job_row(job, now) for job in jobs],
            "No adaptation has run yet.",
        ),
        _section(
            "Bundles",
            ("Bundle", "State", "Made", "Gates"),
            [_bundle_row(bundle, now) for bundle in bundles],
            "No bundle was made or published here yet.",
        ),
        _section(
            "Refusals",
            ("When", "Device", "What", "Why"),
            [
                (
                    _ago(r.at, now),
                    f"<bdi>{_text(names.get(r.device_id or '', r.device_id or 'not enrolled'))}</bdi>",
                    _text(r.what),
                    _why(r.reason),
                )
                for r in refusals
            ],
            "Nothing was refused.",
        ),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>soundkeep server</title><style>{_STYLE}</style></head><body><main>"
        f'<header><h1>soundkeep server</h1><span class="soft">version {_text(__version__)}, '
        f"{_text(time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(now)))}; reload to refresh</span></header>"
        f"{''.join(parts)}</main></body></html>\n"
    )


def _sums(devices: Sequence[dict[str, Any]], now: float) -> str:
    statements = [device["statement"] for device in devices if device["statement"]]
    counted = [
        device["statement"]
        for device in devices
        if device["statement"] and not device["statement"]["held_back"] and device["status"] == "active"
    ]
    day = sum(1 for device in devices if device["last_seen_at"] and now - device["last_seen_at"] < 86_400)
    labels = {label for statement in counted for label in statement["labels"]}
    numbers = (
        ("devices", len(devices)),
        ("seen within a day", day),
        ("statements that count", f"{len(counted)} of {len(statements)}"),
        ("windows learnt", sum(statement["n_windows"] for statement in counted)),
        ("labels", len(labels)),
    )
    cells = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(_grouped(value))}</dd></div>" for name, value in numbers)
    return f'<dl class="sums">{cells}</dl>'


def _device_row(device: dict[str, Any], now: float) -> tuple[str, ...]:
    report, statement = device["report"] or {}, device["statement"]
    bundle = report.get("bundle") or {}
    state = _word(device["status"]) + (_why(device["reason"]) if device["reason"] else "")
    said = '<span class="soft">none yet</span>'
    if statement:
        labels = sorted(statement["labels"])
        shown = "".join(f'<span class="label">{_text(label)}</span>' for label in labels[:_MAX_LABELS])
        more = f' <span class="soft">and {len(labels) - _MAX_LABELS} more</span>' if len(labels) > _MAX_LABELS else ""
        said = (
            f"{_many(statement['n_records'], 'record')}, {_many(statement['n_windows'], 'window')}, "
            f"revision {statement['revision']}<br>{shown}{more}"
        )
        if statement["held_back"]:
            said += f'<br><span class="word warn">held back</span>{_why(statement["held_back"])}'
    slot = f'<br><bdi class="soft">{_text(report["slot"])}</bdi>' if report.get("slot") else ""
    heard = f"{bundle.get('name', '')} {bundle.get('version', '')}".strip()
    kept = f"{_many(device['n_embedded'], 'embedding')}<br>{_many(device['n_clips'], 'clip')}"
    return (
        f"<bdi>{_text(device['name'].strip() or 'without a name')}</bdi><br><code>{_text(device['id'][:12])}</code>",
        state,
        _ago(device["last_seen_at"], now),
        f"<bdi>{_text(heard or 'unknown')}</bdi>{slot}",
        f"<bdi>{_text(report.get('setting', ''))}</bdi>",
        said,
        kept,
    )


def _job_row(job: Job, now: float) -> tuple[str, ...]:
    stage = f"{job.stage}, {100 * job.progress:.0f} %" if job.status == "running" else job.stage
    came = job.error or _words(job.result)
    return (f"{job.id}", _word(job.status), _text(stage), _ago(job.created_at, now), _text(job.asked_by), _why(came))


def _bundle_row(bundle: PublishedBundle, now: float) -> tuple[str, ...]:
    name = f"{_text(bundle.name)} {bundle.version}<br><code>{_text(bundle.sha256[:12])}</code>"
    return name, _word(bundle.status), _ago(bundle.published_at or bundle.created_at, now), _why(_words(bundle.gates))


def _section(title: str, heads: Iterable[str], rows: Sequence[Sequence[str]], empty: str) -> str:
    if not rows:
        return f'<section><h2>{_text(title)}</h2><p class="none">{_text(empty)}</p></section>'
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    shown, more = _table(head, rows[:MAX_ROWS]), ""
    if len(rows) > MAX_ROWS:  # what follows on the page must not lie below a thousand devices
        more = f"<details><summary>{len(rows) - MAX_ROWS} more</summary>{_table(head, rows[MAX_ROWS:])}</details>"
    return f'<section><h2>{_text(title)}</h2><div class="scroll">{shown}{more}</div></section>'


def _table(head: str, rows: Sequence[Sequence[str]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _urgency(device: dict[str, Any]) -> tuple[bool, bool, float]:
    """First those in quarantine or held back, revoked ones last, among equals the one that was seen last."""
    waits = device["status"] == "quarantined" or bool(device["statement"] and device["statement"]["held_back"])
    return not waits, device["status"] == "revoked", -(device["last_seen_at"] or 0.0)


def _words(value: Any, depth: int = 0) -> str:
    """Say a small JSON value in words: ``name: value; name: value``."""
    if value is None:
        return ""
    if isinstance(value, dict):
        said = "; ".join(f"{name}: {_words(inner, depth + 1)}" for name, inner in value.items())
        return f"({said})" if depth else said
    if isinstance(value, list):
        return ", ".join(_words(inner, depth + 1) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _word(status: str) -> str:
    return f'<span class="word {_TONE.get(status, "plain")}">{_text(status)}</span>'


def _why(words: str) -> str:
    return f'<div class="why">{_text(words[:600])}</div>'


def _ago(at: float | None, now: float) -> str:
    if at is None:
        return '<span class="soft">never</span>'
    exact = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(min(max(at, 0.0), 2.0**36)))
    return f'<span title="{exact}">{_text(ago(now - at))}</span>'


def ago(seconds: float) -> str:
    """Say how long ago something was."""
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {name}{'s' if n > 1 else ''} ago"
    return "just now"


def _many(n: int, what: str) -> str:
    return f"{_grouped(n)}\u00a0{what}{'' if n == 1 else 's'}"


def _grouped(value: Any) -> str:
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else str(value)


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)
