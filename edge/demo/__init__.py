"""The demonstration: a scene streams through real listeners; sounds are taught, recognised, forgotten and merged.

``run_demo`` composes it: material, three devices as processes, the story, and the files that are left behind.
"""

from __future__ import annotations

import json
import shutil
import wave
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.demo.device import ListeningDevice
from edge.demo.exam import Answer
from edge.demo.material import Plan, recorded_material, synthetic_material
from edge.demo.story import Story, tell_story
from edge.errors import StateError

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["DEFAULT_OUT", "Plan", "run_demo", "story_table"]

DEFAULT_OUT = "soundkeep-demo"
_DEVICES = "devices"
_MARKER = ".soundkeep-demo"


def run_demo(
    out: Path,
    *,
    data: Path | None = None,
    bundle_option: str | None = None,
    state_dir: Path | None = None,
    plan: Plan | None = None,
    tell: Callable[[str], None] = lambda words: None,
) -> tuple[Story, dict[str, Any]]:
    """Run everything and write scene.wav, report.html and result.json into ``out``.

    data: a folder of class folders to use instead of the synthesiser. bundle_option: as ``--bundle``. state_dir: where
    a named backbone is looked for. Returns the story and what stands in result.json. Raises SoundkeepError.
    """
    from edge.backbones import open_backbone
    from edge.config import state_directory
    from edge.demo.report import report_html

    bundle = open_backbone(state_dir or state_directory(None), bundle_option)
    chosen = plan or (Plan() if data is None else Plan(n_examples=5, n_live=3))
    space = bundle.space
    if data is None:
        material = synthetic_material(space.sample_rate, chosen)
    else:
        material = recorded_material(data, space.sample_rate, chosen)
    folder = _fresh_devices(out)
    kitchen, hall, reference = (
        ListeningDevice(name, folder, space, str(bundle.path)) for name in ("kitchen", "hall", "reference")
    )
    story = tell_story(
        material,
        chosen,
        kitchen=kitchen,
        hall=hall,
        reference=reference,
        space=space,
        backbone=bundle.name,
        folder=folder,
        tell=tell,
    )
    result = result_of(story)
    write_wav(out / "scene.wav", story.samples, story.sample_rate)
    (out / "report.html").write_text(report_html(story), "utf-8")
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return story, result


def _fresh_devices(out: Path) -> Path:
    """Make the folder of the devices' memories, in place of that of an earlier demonstration."""
    folder = out / _DEVICES
    try:
        if folder.exists():
            if not (folder / _MARKER).is_file():
                raise StateError(f"{folder} is not from a demonstration; it is left alone; choose another --out")
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / _MARKER).touch()
    except OSError as error:
        raise StateError(f"{out} cannot be written ({error.strerror}); choose another --out") from error
    return folder


def result_of(story: Story) -> dict[str, Any]:
    """Return what result.json says. The three claims are true only where every compared value was equal."""
    claims = {"restarted": story.restarted, "forget_exact": story.forget, "merge_exact": story.merge}
    return {
        "accuracy_after_each_teaching": [round(a, 4) for a in story.accuracy_after_each_teaching],
        **{name: bool(proofs) and all(proof.holds for proof in proofs) for name, proofs in claims.items()},
        "accuracy_at_the_end": round(story.laps[-1].marked.accuracy, 4),
        "n_false_alarms": sum(len(lap.marked.false_alarms) for lap in story.laps),
        "scene_s": round(len(story.samples) / story.sample_rate, 1),
        "report_delay_s": [round(d, 3) for d in story.delays_s],
        "teach_ms": [round(t, 1) for t in story.teach_ms],
        "embedding_ms": round(story.embedding_ms, 2),
        "backbone": story.backbone,
        "wall_s": round(story.wall_s, 1),
    }


def write_wav(path: Path, samples: np.ndarray[Any, np.dtype[np.float32]], sample_rate: int) -> None:
    """Write (n,) samples as 16-bit mono WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes())


def story_table(story: Story) -> Group:
    """Return the summary for the terminal: what was answered, and what was proved."""
    from rich.console import Group
    from rich.table import Table

    laps = Table(title="What it heard", title_justify="left", header_style="bold")
    laps.add_column("stretch")
    laps.add_column("right", justify="right")
    laps.add_column("false alarms", justify="right")
    laps.add_column("wrong answers")
    for lap in story.laps:
        wrong = [_in_words(answer) for answer in lap.marked.answers if not answer.right]
        more = f"; {len(wrong) - 2} more" if len(wrong) > 2 else ""
        share = f"{lap.marked.n_right}/{len(lap.marked.answers)}"
        laps.add_row(lap.title, share, str(len(lap.marked.false_alarms)), "; ".join(wrong[:2]) + more)
    proofs = Table(title="What was proved", title_justify="left", header_style="bold")
    for name in ("claim", "", "value"):
        proofs.add_column(name)
    for proof in (*story.restarted, *story.forget, *story.merge):
        verdict = "[green]equal[/]" if proof.holds else "[red]different[/]"
        proofs.add_row(proof.claim, verdict, proof.found[:32] + ("..." if len(proof.found) > 32 else ""))
    delay = f"{np.median(story.delays_s):.2f} s" if story.delays_s else "nothing was reported"
    closing = f"From a sound's beginning to its report, in real time: {delay}. One window: {story.embedding_ms:.1f} ms."
    return Group(laps, proofs, closing)


def _in_words(answer: Answer) -> str:
    names = ", ".join(label.replace("_", " ") for label in answer.heard) or "nothing"
    return f"{(answer.occurrence.label or 'a stranger').replace('_', ' ')} as {names}"
