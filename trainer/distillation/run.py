"""One training run: networks, their running average, optimiser and step; it can be put on disk and taken up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.backbones.student import Student, StudentSettings
from trainer.backbones.tiny_transformer import TinyTransformer, TinyTransformerSettings
from trainer.distillation.losses import Answers
from trainer.distillation.schedule import DistilSettings, learning_rate_at
from trainer.errors import TrainingError

MAX_GRADIENT_NORM = 5.0
Distilled = Student | TinyTransformer


class Run:
    """The mutable state of one training run: networks, their running average, optimiser, step."""

    def __init__(self, student: Distilled, answers: Answers, settings: DistilSettings, device: torch.device) -> None:
        self.student = student.to(device)
        self.answers = answers.to(device)
        self.settings = settings
        self.device = device
        state = self.student.state_dict()
        self.average = {k: v.detach().clone().float() for k, v in state.items() if v.is_floating_point()}
        parameters = [*self.student.parameters(), *self.answers.parameters()]
        decayed = [p for p in parameters if p.ndim > 1]
        plain = [p for p in parameters if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        self.step = 0

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """One update. Returns the terms of the loss.

        Raises TrainingError, and makes no update, when the loss or its gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.settings)
        batch = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
        log_mel = batch["log_mel"].to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            embedding = self.student.encode(log_mel)
        terms = self.answers.losses(embedding.float(), batch, self.settings)
        if not terms:
            raise TrainingError("no term of the loss has a weight above 0 and an answer in the bank; give a teacher")
        values = {k: float(v.detach()) for k, v in terms.items()}
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        norm = nn.utils.clip_grad_norm_([*self.student.parameters(), *self.answers.parameters()], MAX_GRADIENT_NORM)
        if not bool(torch.isfinite(total) & torch.isfinite(norm)):
            found = ", ".join(f"{k} {v:.4g}" for k, v in values.items())
            raise TrainingError(
                f"the loss or its gradient is not finite at step {self.step} ({found}, gradient {float(norm):.4g}); "
                f"run again with a lower learning rate to go on from the last checkpoint"
            )
        self.optimizer.step()
        self._update_average()
        self.step += 1
        return values

    def _update_average(self) -> None:
        decay = min(self.settings.ema_decay, (1.0 + self.step) / (10.0 + self.step))
        with torch.no_grad():
            state = self.student.state_dict()
            for key, value in self.average.items():
                value.lerp_(state[key].float(), 1.0 - decay)

    def averaged_student(self) -> Distilled:
        """Return the student with the running average of its weights, in evaluation mode, on the CPU."""
        model = made_of(self.student.settings)
        state = {k: v.detach().cpu().clone() for k, v in self.student.state_dict().items()}
        state.update({k: v.cpu() for k, v in self.average.items()})
        model.load_state_dict(state)
        return model.eval()

    def save(self, path: Path) -> None:
        """Write everything that resuming needs, beside and renamed; tensors only, no pickle."""
        tensors = {f"student.{k}": v for k, v in self.student.state_dict().items()}
        tensors |= {f"answers.{k}": v for k, v in self.answers.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
        on_cpu = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        temporary = path.with_suffix(".tmp")
        save_file(on_cpu, temporary, {"step": str(self.step)})
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Take up what ``save`` wrote. Raises TrainingError when it is damaged or of other networks."""
        try:
            tensors, step = _read_tensors(path)
            self.student.load_state_dict(_under("student.", tensors))
            self.answers.load_state_dict(_under("answers.", tensors))
            average = _under("average.", tensors)
            if average.keys() != self.average.keys():
                raise ValueError("the running average has other names")
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in _under("optimizer.", tensors).items():
                i, name = key.split(".", 1)
                state.setdefault(int(i), {})[name] = value
            full = self.optimizer.state_dict()
            full["state"] = state
            self.optimizer.load_state_dict(full)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"{path} does not continue this run ({reason}); it is damaged, or was begun with another bank or "
                f"student: give another folder, or delete the file to begin again"
            ) from error
        self.average = {k: v.to(self.device) for k, v in average.items()}
        self.step = step


def made_of(settings: StudentSettings | TinyTransformerSettings) -> Distilled:
    """A network of random weights."""
    return Student(settings) if isinstance(settings, StudentSettings) else TinyTransformer(settings)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], int]:
    open_file: Any = safe_open
    with open_file(path, "pt") as f:
        names: list[str] = list(f.keys())
        return {name: f.get_tensor(name) for name in names}, int(f.metadata()["step"])
