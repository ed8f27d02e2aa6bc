"""What an adaptation keeps on disk so that it can be interrupted: each finished session, and the epoch behind us.

Tensors only, in safetensors with their meaning in the metadata; statistics are not kept: a run that goes on embeds the
sessions behind it again, each with the backbone of its time, and gets the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edge.errors import ConfigurationError
from trainer.backbones.checkpoint import Adapter
from trainer.errors import TrainingError
from trainer.pace.adaptation import SessionReport
from trainer.pace.fitting import Fitting


@dataclass(frozen=True, eq=False)
class FinishedSession:
    """What a session left behind. adapter: None when it changed nothing. n_clips: it had. figures: told of it."""

    report: SessionReport
    n_clips: int
    adapter: Adapter | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)


class RunFiles:
    """The folder ``state`` of one adaptation."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def begun(self) -> bool:
        """Whether a run was begun here."""
        return (self._directory / "recipe.json").exists()

    def keep_to(self, recipe: Mapping[str, Any]) -> None:
        """Write what the run is begun with, or compare with what is there.

        Raises ConfigurationError that names what differs, TrainingError when the file is damaged.
        """
        path, now = self._directory / "recipe.json", json.loads(json.dumps(recipe))
        if not self.begun:
            self._directory.mkdir(parents=True, exist_ok=True)
            _write_text(path, json.dumps(now, indent=1, sort_keys=True) + "\n")
            return
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{path} cannot be read ({error}); give another --out to begin again") from error
        if begun != now:
            keys = [k for k in sorted({*begun, *now}) if begun.get(k) != now.get(k)]
            words = "; ".join(f"{k} was {begun.get(k)}, now {now.get(k)}" for k in keys)
            raise ConfigurationError(
                f"{self._directory.parent} holds a run that was begun otherwise ({words}); repeat its options, or give "
                f"another --out"
            )

    def save_epoch(self, fitting: Fitting) -> None:
        """Keep the training of a session as it stands after an epoch."""
        stage = {"session": fitting.stage.session, "stage": fitting.stage.name, "epoch": fitting.epoch}
        _save(self._directory / "epoch.safetensors", fitting.state(), stage)

    def put_forward(self, fitting: Fitting) -> None:
        """Put a training forward to the last epoch kept, when one of the same session and stage was."""
        path = self._directory / "epoch.safetensors"
        if not path.exists():
            return
        tensors, stage = _load(path)
        if (stage["session"], stage["stage"]) == (fitting.stage.session, fitting.stage.name):
            fitting.restore(tensors, int(stage["epoch"]))

    def save_session(self, finished: FinishedSession) -> None:
        """Keep a finished session; the epochs within it are no longer needed."""
        adapter = finished.adapter
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {
            "report": asdict(finished.report),
            "n_clips": finished.n_clips,
            "figures": dict(finished.figures),
            "adapter": None,
        }
        if adapter is not None:
            tensors = {
                f"{kind}.{n}": t for kind, m in (("down", adapter.down), ("up", adapter.up)) for n, t in m.items()
            }
            values["adapter"] = {"name": adapter.name, "scaling": adapter.scaling, "modules": list(adapter.down)}
        _save(self._session_path(finished.report.session), tensors, values)
        (self._directory / "epoch.safetensors").unlink(missing_ok=True)

    def session(self, number: int) -> FinishedSession | None:
        """What ``save_session`` kept of a session, None when it is not finished. Raises TrainingError."""
        path = self._session_path(number)
        if not path.exists():
            return None
        tensors, values = _load(path)
        try:
            report = dict(values["report"])
            report["similarities"] = tuple(report["similarities"])
            report["subspace"] = {k: tuple(v) for k, v in report["subspace"].items()}
            adapter, kept = None, values["adapter"]
            if kept is not None:
                down = {n: tensors[f"down.{n}"] for n in kept["modules"]}
                up = {n: tensors[f"up.{n}"] for n in kept["modules"]}
                adapter = Adapter(kept["name"], kept["scaling"], down, up)
            return FinishedSession(SessionReport(**report), int(values["n_clips"]), adapter, values["figures"])
        except (KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"{path} is damaged ({error}); give another --out to begin again") from error

    def _session_path(self, number: int) -> Path:
        return self._directory / f"session-{number:04d}.safetensors"


def _save(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    save_file({k: t.contiguous() for k, t in tensors.items()}, temporary, {"values": json.dumps(values)})
    temporary.replace(path)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    opened: Any = safe_open
    try:
        with opened(path, "pt") as f:
            return {name: f.get_tensor(name) for name in f.keys()}, json.loads(f.metadata()["values"])  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise TrainingError(f"{path} is damaged ({reason}); delete it to go on from before it") from error


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
