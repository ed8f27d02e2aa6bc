"""The page that shows what happened: one HTML file, no script, nothing fetched. Pure: values in, text out.

Everything that is drawn in time shares one axis: spectrogram, truth, what was reported, and the scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from edge.demo.device import ScoresOverTime
from edge.demo.exam import Answer
from edge.demo.pictures import spectrogram_uri
from edge.demo.story import Lap, Proof, Story

_WIDTH, _GUTTER, _NAMES = 1100, 80, 76.0
_GREY = "#8a8f9c"
_COLOURS = (
    "#2f7fd1",
    "#d9822b",
    "#1f9d76",
    "#b05fc4",
    "#c94f5f",
    "#7a8f2a",
    "#1aa3b8",
    "#8d6e55",
    "#5d6bd0",
    "#b8860b",
)

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #ffffff; --ink: #1d2230; --soft: #5d6475; --line: #dedbd2;
  --good: #14795a; --bad: #b3263a; --wash: #f1efe8; }
@media (prefers-color-scheme: dark) { :root { --paper: #12151c; --card: #1a1e28; --ink: #e9e7e1; --soft: #a2a8b6;
  --line: #303645; --good: #4cc49a; --bad: #f0808e; --wash: #222734; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 48px 32px 80px; }
h1 { font-size: 34px; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 8px; }
h2 { font-size: 21px; letter-spacing: -0.01em; margin: 56px 0 6px; }
p { margin: 0 0 14px; max-width: 76ch; } .soft, figcaption { color: var(--soft); } figcaption { font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; margin: 28px 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; }
.tile b { display: block; font-size: 26px; line-height: 1.25; letter-spacing: -0.01em; }
.tile span { color: var(--soft); font-size: 14px; } .good { color: var(--good); } .bad { color: var(--bad); }
figure { margin: 14px 0 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px; }
figure svg { display: block; width: 100%; height: auto; } figcaption { margin-top: 8px; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
svg .soft { fill: var(--soft); } svg .wrong { fill: var(--bad); font-weight: 600; } svg .axis { stroke: var(--line); }
svg .grid { stroke: var(--line); stroke-dasharray: 2 4; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0 0; font-size: 14px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px;
  vertical-align: -1px; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; margin-top: 12px; }
th { text-align: left; font-weight: 600; color: var(--soft); }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--soft); }
audio { width: 100%; margin-top: 22px; }
"""


def say(label: str | None) -> str:
    """A label for people."""
    return "unknown" if label is None else label.replace("_", " ")


def report_html(story: Story, *, scene_name: str | None = "scene.wav") -> str:
    """Return the whole page. scene_name: a WAV file beside the page to listen to, or None."""
    colours = _colours(story)
    last = story.laps[-1]
    sections = [
        _head(story, scene_name),
        "<h2>Accuracy after each teaching</h2>"
        "<p>After each taught sound the device hears a new stretch: every sound of the kitchen, and strangers. "
        "An answer is right when a taught sound is reported by its name and nothing else is, "
        "and when a sound that nobody taught is given no name.</p>",
        _figure(accuracy_chart(story), "Share of sounds answered rightly in each stretch."),
        f"<h2>What it heard {escape(last.title)}</h2>",
        _figure(
            timeline(last, story, colours, story.scores),
            "Spectrogram (pitch rises upwards, 70 dB from dark to light), the truth, what the device reported, and the "
            "score of each taught sound, reported above the dashed line. Grey: not taught. Red: answered wrongly.",
        ),
        _legend(colours),
        _earlier(story, colours),
        "<h2>Exact, not nearly</h2>"
        "<p>What was learnt is a sum of integers, so forgetting is subtraction and merging is addition, to the last "
        "bit. Each row compares two values that the devices' own commands printed.</p>",
        _proofs([*story.restarted, *story.forget, *story.merge]),
        "<h2>Latency</h2>",
        _latency(story),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>soundkeep: what the device heard</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(sections)}\n</main></body></html>\n"
    )


def _colours(story: Story) -> dict[str, str]:
    labels = dict.fromkeys(label for lap in story.laps for label in lap.known)
    return {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(labels)}


def _head(story: Story, scene_name: str | None) -> str:
    answers = [answer for lap in story.laps for answer in lap.marked.answers]
    n_false = sum(len(lap.marked.false_alarms) for lap in story.laps)
    tiles = [
        (f"{story.laps[-1].marked.accuracy:.0%}", "right in the last stretch", ""),
        (
            f"{sum(a.right for a in answers)} of {len(answers)}",
            f"right overall, {n_false} false alarm(s) in between",
            "",
        ),
        _verdict(story.forget, f"forgot {say(story.forgotten)}"),
        _verdict(story.merge, "merged two devices"),
        _verdict(story.restarted, "killed and restarted", ("nothing lost", "something lost")),
    ]
    boxes = "".join(
        f'<div class="tile"><b class="{kind}">{escape(value)}</b><span>{escape(words)}</span></div>'
        for value, words, kind in tiles
    )
    minutes, seconds = divmod(round(len(story.samples) / story.sample_rate), 60)
    sound = "" if scene_name is None else f'<audio controls preload="none" src="{escape(scene_name)}"></audio>'
    return (
        "<h1>What the device heard, learnt and forgot</h1>"
        f'<p class="soft">A scene of {minutes} min {seconds:02d} s, {escape(story.origin)}, streamed into '
        f"<code>soundkeep listen</code> with the backbone {escape(story.backbone)}. Each sound was taught from a few "
        f"examples while the stream ran on.</p>{sound}"
        f'<div class="tiles">{boxes}</div>'
    )


def _verdict(
    proofs: Sequence[Proof], words: str, values: tuple[str, str] = ("exact", "not exact")
) -> tuple[str, str, str]:
    holds = bool(proofs) and all(proof.holds for proof in proofs)
    return (values[0], words, "good") if holds else (values[1], words, "bad")


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _svg(height: float, parts: Iterable[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH + _GUTTER + 24} {height:g}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def accuracy_chart(story: Story) -> str:
    """Bars, one per lap: those after a teaching first, then what came after."""
    n, height, base = len(story.laps), 236.0, 190.0
    step = _WIDTH / max(n, 1)
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = base - 160.0 * share
        parts.append(f'<line class="grid" x1="{_GUTTER}" x2="{_GUTTER + _WIDTH}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="soft" x="{_GUTTER - 10}" y="{y + 4}" text-anchor="end">{share:.0%}</text>')
    for i, lap in enumerate(story.laps):
        x, tall = _GUTTER + step * (i + 0.5), 160.0 * lap.marked.accuracy
        fill = "#2f7fd1" if i < story.n_taught else "#1f9d76"
        parts.append(
            f'<rect x="{x - step * 0.3:.1f}" y="{base - tall:.1f}" width="{step * 0.6:.1f}" height="{tall:.1f}" rx="4" '
            f'fill="{fill}"/>'
            f'<text x="{x:.1f}" y="{base - tall - 7:.1f}" text-anchor="middle" font-weight="600">'
            f"{lap.marked.n_right}/{len(lap.marked.answers)}</text>"
        )
        first, _, rest = lap.title.partition(", ")
        parts.append(f'<text x="{x:.1f}" y="{base + 19}" text-anchor="middle">{escape(first)}</text>')
        parts.append(f'<text class="soft" x="{x:.1f}" y="{base + 36}" text-anchor="middle">{escape(rest)}</text>')
    return _svg(height, parts, "Accuracy after each teaching")


def timeline(lap: Lap, story: Story, colours: Mapping[str, str], scores: ScoresOverTime | None = None) -> str:
    """Names, spectrogram, truth, reports and, if given, scores of one lap over one time axis."""
    seconds = lap.scene.seconds
    scale = _WIDTH / (seconds * story.sample_rate)
    tall = 150 if scores is not None else 84
    y = _NAMES
    parts = [_names(lap, scale, y)]
    uri = spectrogram_uri(lap.scene.samples, story.sample_rate, width=_WIDTH, height=tall)
    parts.append(
        f'<image x="{_GUTTER}" y="{y}" width="{_WIDTH}" height="{tall}" preserveAspectRatio="none" href="{uri}"/>'
    )
    y += tall + 8.0
    for name, lane in (("truth", _truth_boxes), ("reported", _reports)):
        parts.append(f'<text class="soft" x="{_GUTTER - 10}" y="{y + 15}" text-anchor="end">{name}</text>')
        parts.append(lane(lap, colours, scale, y))
        y += 26.0
    y += 6.0
    if scores is not None:
        parts.append(_score_lines(scores, colours, seconds, y))
        y += 130.0
    parts.append(_time_axis(seconds, y))
    return _svg(y + 24.0, parts, f"What was heard {lap.title}")


def _names(lap: Lap, scale: float, y: float) -> str:
    """What each sound is, slanted above its onset; strangers in grey."""
    parts = []
    for answer in lap.marked.answers:
        x = _GUTTER + answer.occurrence.onset * scale + 6.0
        name, kind = (say(answer.expected), "") if answer.expected else ("stranger", ' class="soft"')
        kind = kind if answer.right else ' class="wrong"'
        if answer.occurrence.label and not answer.expected:
            name = f"({say(answer.occurrence.label)})"
        mark = "" if answer.right else ' fill="#e0384f" font-weight="600"'
        parts.append(f'<text{kind}{mark} transform="translate({x:.1f} {y - 6:.1f}) rotate(-32)">{escape(name)}</text>')
    return "".join(parts)


def _box(
    x: float, width: float, y: float, fill: str, title: str, *, wrong: bool, height: float = 20.0, opacity: float = 1.0
) -> str:
    outline = ' stroke="#e0384f" stroke-width="2.5"' if wrong else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 2.0):.1f}" height="{height:.1f}" '
        f'rx="{min(4.0, height / 3):.1f}" fill="{fill}" fill-opacity="{opacity:.2f}"{outline}>'
        f"<title>{escape(title)}</title></rect>"
    )


def _truth_boxes(lap: Lap, colours: Mapping[str, str], scale: float, y: float) -> str:
    return "".join(
        _box(
            _GUTTER + a.occurrence.onset * scale,
            (a.occurrence.offset - a.occurrence.onset) * scale,
            y,
            colours.get(a.expected or "", _GREY),
            _what_happened(a),
            wrong=not a.right,
        )
        for a in lap.marked.answers
    )


def _what_happened(answer: Answer) -> str:
    was = say(answer.occurrence.label) if answer.occurrence.label else "a stranger"
    taught = "" if answer.expected or not answer.occurrence.label else " (not taught)"
    return f"{was}{taught}: reported as {', '.join(map(say, answer.heard)) or 'nothing taught'}"


def _reports(lap: Lap, colours: Mapping[str, str], scale: float, y: float) -> str:
    """Unknown sounds lie pale behind the taught ones; taught ones that overlap share the lane's height."""
    end = len(lap.scene.samples)
    shown = [d for d in lap.detections if d.onset < end]
    unknown = [d for d in shown if d.label is None]
    known = sorted((d for d in shown if d.label is not None), key=lambda d: d.onset)
    boxes = [(d, 0.0, 20.0) for d in unknown]
    for detection in known:
        meeting = [d for d in known if d.onset < detection.offset and detection.onset < d.offset]
        tall = 20.0 / len(meeting)
        boxes.append((detection, tall * meeting.index(detection), tall - (1.5 if len(meeting) > 1 else 0.0)))
    return "".join(
        _box(
            _GUTTER + d.onset * scale,
            (min(d.offset, end) - d.onset) * scale,
            y + down,
            colours.get(d.label or "", _GREY),
            f"{say(d.label)}, score {d.score:.2f}",
            wrong=d in lap.marked.false_alarms,
            height=tall,
            opacity=1.0 if d.label else 0.4,
        )
        for d, down, tall in boxes
    )


def _score_lines(scores: ScoresOverTime, colours: Mapping[str, str], seconds: float, y: float) -> str:
    height = 118.0
    x = _GUTTER + scores.seconds / seconds * _WIDTH
    parts = [f'<text class="soft" x="{_GUTTER - 10}" y="{y + height / 2 + 4}" text-anchor="end">score</text>']
    for level, kind in ((0.0, "axis"), (0.5, "grid"), (1.0, "axis")):
        at = y + height * (1.0 - level)
        parts.append(f'<line class="{kind}" x1="{_GUTTER}" x2="{_GUTTER + _WIDTH}" y1="{at}" y2="{at}"/>')
    for column, label in enumerate(scores.labels):
        points = " ".join(
            f"{px:.1f},{y + height * (1.0 - value):.1f}" for px, value in zip(x, scores.scores[:, column], strict=True)
        )
        colour = colours.get(label, _GREY)
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round" points="{points}"/>'
        )
    return "".join(parts)


def _time_axis(seconds: float, y: float) -> str:
    step = next((s for s in (1, 2, 5, 10, 20, 30, 60) if seconds / s <= 14), 120)
    parts = [f'<line class="axis" x1="{_GUTTER}" x2="{_GUTTER + _WIDTH}" y1="{y}" y2="{y}"/>']
    for at in np.arange(0.0, seconds, step):
        x = _GUTTER + at / seconds * _WIDTH
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 5}"/>')
        parts.append(f'<text class="soft" x="{x:.1f}" y="{y + 18}" text-anchor="middle">{at:g} s</text>')
    return "".join(parts)


def _legend(colours: Mapping[str, str]) -> str:
    entries = [*((say(label), colour) for label, colour in colours.items()), ("not taught, unknown", _GREY)]
    items = "".join(f'<span><i style="background:{colour}"></i>{escape(words)}</span>' for words, colour in entries)
    return f'<div class="legend">{items}</div>'


def _earlier(story: Story, colours: Mapping[str, str]) -> str:
    figures = "".join(_figure(timeline(lap, story, colours), lap.title.capitalize()) for lap in story.laps[:-1])
    return f"<details><summary>The {len(story.laps) - 1} stretches before that</summary>{figures}</details>"


def _proofs(proofs: Sequence[Proof]) -> str:
    rows = "".join(
        f"<tr><td>{escape(p.claim)}</td><td><code>{escape(_short(p.found))}</code></td>"
        f"<td><code>{escape(_short(p.wanted))}</code></td>"
        f'<td class="{"good" if p.holds else "bad"}"><b>{"equal" if p.holds else "different"}</b></td></tr>'
        for p in proofs
    )
    return f"<table><tr><th>claim</th><th>found</th><th>wanted</th><th></th></tr>{rows}</table>"


def _short(value: str) -> str:
    words = value.split()
    if len(words) > 3:
        return f"{words[0][:12]} ... {words[-1][:12]} ({len(words)} records)"
    return " ".join([words[0][:20] + ("..." if len(words[0]) > 20 else ""), *words[1:]]) if words else ""


def _latency(story: Story) -> str:
    rows = [
        ("From the first sample of a sound to its report, in real time", _range(story.delays_s, "s", 2)),
        ("From the word `teach` to its answer; known from the next window on", _range(story.teach_ms, "ms", 0)),
        ("One window through the backbone, mean", f"{story.embedding_ms:.1f} ms"),
        ("The whole demonstration, all devices", f"{story.wall_s:.0f} s"),
    ]
    body = "".join(f'<tr><td>{escape(words)}</td><td class="number">{escape(value)}</td></tr>' for words, value in rows)
    return f"<table>{body}</table>"


def _range(values: Sequence[float], unit: str, digits: int) -> str:
    if not values:
        return "nothing was reported"
    middle, low, high = float(np.median(values)), min(values), max(values)
    return f"{middle:.{digits}f} {unit} (median of {len(values)}; {low:.{digits}f} to {high:.{digits}f})"
