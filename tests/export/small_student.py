"""A student small enough to export in a test, with statistics in its norms as after training."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.backbones.checkpoint import save_checkpoint
from trainer.backbones.student import Student, StudentSettings

DIM = 32


def small_student(seed: int = 0) -> Student:
    """Return a student of about 20,000 weights in evaluation mode."""
    torch.manual_seed(seed)
    model = Student(StudentSettings(widths=(8, 8, 12, 16, 24), strides=(1, 2, 2, 2), dim=DIM))
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)) and module.running_mean is not None:
            module.running_mean.uniform_(-0.2, 0.2)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def write_checkpoint(folder: Path) -> Path:
    save_checkpoint(folder, small_student(), {"trained_on": "nothing: random weights"})
    return folder
