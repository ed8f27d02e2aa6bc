"""Distillation of the default ear: one embedding from which every teacher's answer can be read off linearly.

Loss: smooth L1 + cosine to each teacher's standardised embedding, binary cross-entropy to the sound teacher's class
scores, and cross-entropy to the labels of sounds and words where the data names them. Beyer et al. 2022 ("a good teacher
is patient and consistent"): teacher and student hear exactly the same augmented window, and training is long.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from edge.errors import ConfigurationError
from trainer.student import Student, StudentSettings, save_checkpoint

TARGET_CLIP = 5.0


@dataclass(frozen=True)
class DistilSettings:
    """``learning_rate`` is the peak after ``warmup_steps``; it falls to zero over ``steps`` as a cosine."""

    steps: int = 8000
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup_steps: int = 200
    ema_decay: float = 0.999
    scores_weight: float = 30.0
    sound_weight: float = 2.0
    speech_weight: float = 0.7
    sound_label_weight: float = 0.0
    word_label_weight: float = 0.15
    label_smoothing: float = 0.1
    seed: int = 0
    checkpoint_every: int = 250


class Bank:
    """All shards of a bank in memory. Arrays are float16 where the bank has them so; rows are windows."""

    def __init__(self, directory: Path) -> None:
        paths = sorted(directory.glob("shard-*.npz"))
        if not paths:
            raise ConfigurationError(f"{directory} holds no shards; fill the bank first")
        parts: dict[str, list[NDArray[Any]]] = {}
        speech_rows: list[NDArray[np.int64]] = []
        offset = 0
        for path in paths:
            with np.load(path, allow_pickle=False) as shard:
                for key in shard.files:
                    parts.setdefault(key, []).append(shard[key])
                if "speech_rows" in shard.files:
                    speech_rows.append(shard["speech_rows"].astype(np.int64) + offset)
                offset += len(shard["log_mel"])
        self.n = offset
        self.arrays = {k: np.concatenate(v) for k, v in parts.items() if not k.endswith("_rows")}
        self.speech_index = np.full(self.n, -1, dtype=np.int64)
        if speech_rows:
            rows = np.concatenate(speech_rows)
            self.speech_index[rows] = np.arange(len(rows))
        labels = json.loads((directory / "bank.json").read_text())
        self.n_sounds, self.n_words = len(labels["sounds"]), len(labels["words"])

    def batch(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Gather one batch as float32 and int64 tensors; ``speech_mask`` marks the rows the speech teacher answered."""
        a = self.arrays
        out = {"log_mel": torch.from_numpy(a["log_mel"][rows].astype(np.float32))}
        for key in ("sound", "sound_scores"):
            if key in a:
                out[key] = torch.from_numpy(a[key][rows].astype(np.float32))
        if "speech" in a:
            index = self.speech_index[rows]
            out["speech"] = torch.from_numpy(a["speech"][np.maximum(index, 0)].astype(np.float32))
            out["speech_mask"] = torch.from_numpy(index >= 0)
        out["sound_label"] = torch.from_numpy(a["sound_label"][rows].astype(np.int64))
        out["word_label"] = torch.from_numpy(a["word_label"][rows].astype(np.int64))
        out["share"] = torch.from_numpy(a["share"][rows].astype(np.float32))
        return out

    def moments(self, key: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and deviation of a teacher's embedding over the bank (at most 30,000 rows), each (m,) float32."""
        values = self.arrays[key][:30000].astype(np.float32)
        return values.mean(axis=0), values.std(axis=0) + np.float32(1e-3)


class Answers(nn.Module):
    """Linear read-outs from the embedding to every target; thrown away after training."""

    def __init__(self, dim: int, bank: Bank) -> None:
        super().__init__()
        self.heads = nn.ModuleDict()
        for key in ("sound", "sound_scores", "speech"):
            if key in bank.arrays:
                self.heads[key] = head = nn.Linear(dim, bank.arrays[key].shape[1])
                if key == "sound_scores":
                    rate = np.clip(bank.arrays[key][:30000].astype(np.float32).mean(axis=0), 1e-4, 0.5)
                    head.bias.data = torch.from_numpy(np.log(rate / (1.0 - rate)))
                else:
                    mean, deviation = bank.moments(key)
                    self.register_buffer(f"{key}_mean", torch.from_numpy(mean))
                    self.register_buffer(f"{key}_deviation", torch.from_numpy(deviation))
        if bank.n_sounds:
            self.heads["sound_label"] = nn.Linear(dim, bank.n_sounds)
        if bank.n_words:
            self.heads["word_label"] = nn.Linear(dim, bank.n_words)

    def standardized(self, key: str, target: Tensor) -> Tensor:
        z = (target - getattr(self, f"{key}_mean")) / getattr(self, f"{key}_deviation")
        return z.clamp(-TARGET_CLIP, TARGET_CLIP)

    def losses(self, embedding: Tensor, batch: Mapping[str, Tensor], s: DistilSettings) -> dict[str, Tensor]:
        """Return the weighted terms of the loss, each a scalar."""
        terms: dict[str, Tensor] = {}
        for key, weight in (("sound", s.sound_weight), ("speech", s.speech_weight)):
            if key in self.heads:
                rows = batch["speech_mask"] if key == "speech" else torch.ones_like(batch["share"], dtype=torch.bool)
                if not bool(rows.any()):
                    continue
                target = self.standardized(key, batch[key][rows])
                answer = self.heads[key](embedding[rows])
                cosine = 1.0 - functional.cosine_similarity(answer, target, dim=1).mean()
                terms[key] = weight * (functional.smooth_l1_loss(answer, target) + cosine)
        if "sound_scores" in self.heads:
            logits = self.heads["sound_scores"](embedding)
            bce = functional.binary_cross_entropy_with_logits(logits, batch["sound_scores"])
            terms["sound_scores"] = s.scores_weight * bce
        for key, weight in (("sound_label", s.sound_label_weight), ("word_label", s.word_label_weight)):
            if key in self.heads:
                term = shared_cross_entropy(self.heads[key](embedding), batch[key], batch["share"], s.label_smoothing)
                terms[key] = weight * term
        return terms


def shared_cross_entropy(logits: Tensor, labels: Tensor, share: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy to up to two labels a window, weighted by each one's share; -1 is no label.

    logits: (n, k), labels: (n, 2) int64, share: (n,) of the first label. Returns the mean over the labelled weight.
    """
    log_p = functional.log_softmax(logits, dim=1)
    weights = torch.stack([share, 1.0 - share], dim=1) * (labels >= 0)
    chosen = log_p.gather(1, labels.clamp(min=0))
    uniform = log_p.mean(dim=1, keepdim=True)
    loss = -(weights * ((1.0 - smoothing) * chosen + smoothing * uniform)).sum()
    return loss / weights.sum().clamp(min=1.0)


def learning_rate_at(step: int, s: DistilSettings) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < s.warmup_steps:
        return s.learning_rate * (step + 1) / s.warmup_steps
    progress = (step - s.warmup_steps) / max(1, s.steps - s.warmup_steps)
    return float(s.learning_rate * 0.5 * (1.0 + np.cos(np.pi * min(1.0, progress))))


def batches(n: int, s: DistilSettings, first_step: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of step ``first_step`` and all later ones: shuffled epochs that depend on (seed, epoch) alone."""
    per_epoch = n // s.batch_size
    if per_epoch == 0:
        raise ConfigurationError(f"the bank holds {n} windows, fewer than one batch of {s.batch_size}")
    step = first_step
    while step < s.steps:
        order = np.random.default_rng([s.seed, step // per_epoch]).permutation(n)
        for i in range(step % per_epoch, per_epoch):
            if step == s.steps:
                return
            yield order[i * s.batch_size : (i + 1) * s.batch_size]
            step += 1


class Run:
    """The mutable state of one training run: networks, their running average, optimiser, step."""

    def __init__(self, student: Student, answers: Answers, settings: DistilSettings, device: torch.device) -> None:
        self.student, self.answers, self.settings, self.device = student.to(device), answers.to(device), settings, device
        self.average = {k: v.detach().clone().float() for k, v in student.state_dict().items() if v.is_floating_point()}
        parameters = [*student.parameters(), *answers.parameters()]
        decayed = [p for p in parameters if p.ndim > 1]
        plain = [p for p in parameters if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        self.step = 0

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """One update. Returns the terms of the loss. Raises ConfigurationError when the loss is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.settings)
        batch = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
        log_mel = batch["log_mel"][:, :, :, :].to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            embedding = self.student.encode(log_mel)
        terms = self.answers.losses(embedding.float(), batch, self.settings)
        total = torch.stack(list(terms.values())).sum()
        if not bool(torch.isfinite(total)):
            raise ConfigurationError(f"the loss is not finite at step {self.step}; lower the learning rate and resume")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*self.student.parameters(), *self.answers.parameters()], 5.0)
        self.optimizer.step()
        self._update_average()
        self.step += 1
        return {k: float(v.detach()) for k, v in terms.items()}

    def _update_average(self) -> None:
        decay = min(self.settings.ema_decay, (1.0 + self.step) / (10.0 + self.step))
        with torch.no_grad():
            state = self.student.state_dict()
            for key, value in self.average.items():
                value.lerp_(state[key].float(), 1.0 - decay)

    def averaged_student(self) -> Student:
        """Return the student with the running average of its weights, in evaluation mode, on the CPU."""
        model = Student(self.student.settings)
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
        temporary = path.with_suffix(".tmp")
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary, {"step": str(self.step)})
        temporary.replace(path)

    def load(self, path: Path) -> None:
        with safe_open(path, "pt") as f:
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - safe_open is no mapping
            self.step = int(f.metadata()["step"])
        pick = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        self.student.load_state_dict(pick("student."))
        self.answers.load_state_dict(pick("answers."))
        self.average = {k: v.to(self.device) for k, v in pick("average.").items()}
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in pick("optimizer.").items():
            i, name = key.split(".", 1)
            state.setdefault(int(i), {})[name] = value
        full = self.optimizer.state_dict()
        full["state"] = state
        self.optimizer.load_state_dict(full)


def distil(
    bank_directory: Path, out: Path, *, settings: DistilSettings, student_settings: StudentSettings = StudentSettings(),
    initial: Student | None = None, meta: Mapping[str, Any] | None = None, threads: int = 1,
    on_checkpoint: Callable[[int, Student], None] | None = None, progress: bool = True,
) -> Student:
    """Train, or continue the run in ``out``; write checkpoint, ``losses.csv`` and ``losses.png``. Returns the averaged student.

    initial: weights to start from instead of random ones. meta: what the checkpoint says about its data.
    """
    torch.manual_seed(settings.seed)
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bank = Bank(bank_directory)
    student = Student(student_settings)
    if initial is not None:
        student.load_state_dict(initial.state_dict())
    student = student.to(memory_format=torch.channels_last)
    run = Run(student, Answers(student_settings.dim, bank), settings, device)
    out.mkdir(parents=True, exist_ok=True)
    resume = out / "resume.safetensors"
    if resume.exists():
        run.load(resume)
    run.student.train()
    started = time.monotonic()
    log_path = out / "losses.csv"
    with log_path.open("a", newline="") as log, tqdm(total=settings.steps, initial=run.step, disable=not progress) as bar:
        writer = csv.writer(log)
        sums: dict[str, float] = {}
        for rows in batches(bank.n, settings, run.step):
            for key, value in run.train_step(bank.batch(rows)).items():
                sums[key] = sums.get(key, 0.0) + value
            bar.update()
            if run.step % 50 == 0 or run.step == settings.steps:
                means = {k: v / 50 for k, v in sums.items()}
                bar.set_postfix({k: f"{v:.3f}" for k, v in means.items()})
                if log.tell() == 0:
                    writer.writerow(["step", "seconds", *means])
                writer.writerow([run.step, f"{time.monotonic() - started:.1f}", *(f"{v:.5f}" for v in means.values())])
                log.flush()
                sums = {}
            if run.step % settings.checkpoint_every == 0 or run.step == settings.steps:
                run.save(resume)
                if on_checkpoint is not None:
                    on_checkpoint(run.step, run.averaged_student())
    model = run.averaged_student()
    save_checkpoint(out, model, {"distil": asdict(settings), "n_windows_in_bank": bank.n, "steps": run.step, **(meta or {})})
    plot_losses(log_path, out / "losses.png")
    return model


def plot_losses(csv_path: Path, png_path: Path) -> None:
    """Draw each term of the loss over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with csv_path.open(newline="") as f:
        rows = list(csv.DictReader(f))
    if not rows:
        return
    figure, axis = pyplot.subplots(figsize=(8, 5))
    for key in [k for k in rows[0] if k not in ("step", "seconds")]:
        axis.plot([int(r["step"]) for r in rows], [float(r[key]) for r in rows], label=key)
    axis.set_xlabel("step")
    axis.set_ylabel("weighted loss term")
    axis.set_yscale("log")
    axis.legend()
    figure.tight_layout()
    figure.savefig(png_path, dpi=110)
    pyplot.close(figure)
