"""Distillation of the default ear: one embedding from which every teacher's answer can be read off linearly.

Beyer et al. 2022 ("a good teacher is patient and consistent"): teacher and student hear exactly the same augmented
window, and training is long.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from edge.errors import ConfigurationError
from trainer.backbones.checkpoint import save_checkpoint
from trainer.backbones.student import StudentSettings
from trainer.backbones.tiny_transformer import TinyTransformerSettings
from trainer.distillation.losses import Answers
from trainer.distillation.run import Distilled, Run, made_of
from trainer.distillation.schedule import DistilSettings, batches
from trainer.distillation.shards import Bank
from trainer.errors import TrainingError
from trainer.loss_log import LossLog, plot_losses

RESUME = "resume.safetensors"


def distil(
    bank_directory: Path,
    out: Path,
    *,
    settings: DistilSettings,
    student_settings: StudentSettings | TinyTransformerSettings = StudentSettings(),
    initial: Distilled | None = None,
    meta: Mapping[str, Any] | None = None,
    threads: int = 1,
    on_checkpoint: Callable[[int, Distilled], None] | None = None,
    progress: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> Distilled:
    """Train, or continue the run in ``out``; write checkpoint, ``losses.csv`` and ``losses.png``.

    initial: weights to start from instead of random ones; a run that continues has its own. meta: what the checkpoint
    says about its data. on_checkpoint: called with the step and the averaged student. stop: asked after every step;
    when it says yes, the run is saved as it stands. The same bank, settings and threads give the same bits on a CPU,
    interrupted or not. Uses the GPU when torch finds one. Returns the averaged student on the CPU.

    Raises TrainingError when stopped, when the loss is not finite, when bank or run are damaged; ConfigurationError
    when the bank holds less than one batch or ``initial`` is no such student.
    """
    torch.manual_seed(settings.seed)
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bank = Bank(bank_directory)
    student = made_of(student_settings)
    if initial is not None:
        if initial.settings != student_settings:
            raise ConfigurationError(
                f"the initial weights are of a student with {initial.settings}; wanted {student_settings}"
            )
        student.load_state_dict(initial.state_dict())
    student = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    run = Run(student, Answers(student_settings.dim, bank), settings, device)
    out.mkdir(parents=True, exist_ok=True)
    resume = out / RESUME
    if resume.exists():
        run.load(resume)
    run.student.train()
    log = LossLog(out / "losses.csv", run.step)
    if progress:
        where = f"{device}, {threads} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
        tqdm.write(f"{bank.n} windows take {bank.n_bytes / 1e9:.2f} GB of memory; training on {where}", file=sys.stderr)
    with tqdm(total=settings.steps, initial=run.step, desc="distil", unit="step", disable=not progress) as bar:
        for rows in batches(bank.n, settings, run.step):
            terms = run.train_step(bank.batch(rows))
            bar.update()
            last = run.step == settings.steps
            means = log.add(run.step, terms, last=last)
            if means is not None:
                bar.set_postfix({k: f"{v:.3f}" for k, v in means.items()})
            if run.step % settings.checkpoint_every == 0 or last:
                run.save(resume)
                if on_checkpoint is not None:
                    on_checkpoint(run.step, run.averaged_student())
            if stop() and not last:
                run.save(resume)
                raise TrainingError(
                    f"stopped after step {run.step} of {settings.steps}; run the same command again to go on from there"
                )
    model = run.averaged_student()
    made = {"distil": asdict(settings), "n_windows_in_bank": bank.n, "steps": run.step, **(meta or {})}
    save_checkpoint(out, model, made)
    plot_losses(out / "losses.csv", out / "losses.png")
    return model
