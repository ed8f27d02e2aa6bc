"""Training peers that take turns: what a round is timed with, the peak between the rounds, and what they train on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.machine import single_thread

single_thread()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from trainer.backbones.backbone import Backbone  # noqa: E402
from trainer.backbones.eat import Eat, EatSettings  # noqa: E402
from trainer.pace.fitting import Lesson  # noqa: E402

EAT_BASE = EatSettings(window_length=16000, target_frames=128)
CLASSES = 5
Step = Callable[[], object]


@dataclass(frozen=True)
class Bench:
    """Where and how long is measured. rounds: how often the peers take turns; a first one that warms up is not kept."""

    device: torch.device
    rounds: int = 5
    peak_size: int = 2048

    @property
    def precision(self) -> Literal["float32", "bfloat16"]:
        """The one that fits the device, as ``PaceSettings`` calls it."""
        return "bfloat16" if self.device.type == "cuda" else "float32"

    def seconds(self, work: Step) -> float:
        """Of the processor (one thread is meant) or, on CUDA, of the wall until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            start = time.perf_counter()
            work()
            torch.cuda.synchronize(self.device)
            return time.perf_counter() - start
        start = time.process_time()
        work()
        return time.process_time() - start

    def peak(self) -> float:
        """Operations a second of one large matrix product: a multiplication and an addition are two."""
        n = self.peak_size
        a = torch.randn(n, n, device=self.device, dtype=getattr(torch, self.precision))
        return 2.0 * n**3 / self.seconds(lambda: a @ a)

    def turns(self, peers: Mapping[str, Step]) -> tuple[dict[str, list[float]], float]:
        """Seconds of each peer in each round, the order reversed in every second, and the best peak between them."""
        times: dict[str, list[float]] = {name: [] for name in peers}
        peak = self.peak()
        for i in range(self.rounds + 1):
            peak = max(peak, self.peak())
            for name in list(peers)[:: 1 if i % 2 else -1]:
                times[name].append(self.seconds(peers[name]))
        return {name: found[1:] for name, found in times.items()}, peak


def random_eat(settings: EatSettings, device: torch.device) -> Backbone:
    torch.manual_seed(0)
    return Eat(settings).to(device).requires_grad_(False).eval()


def lesson_of(backbone: Backbone, n: int, device: torch.device, n_classes: int = CLASSES) -> Lesson:
    """n windows of noise and of a tone that tells the class, as features made once; they stay on the CPU."""
    rng = np.random.default_rng(1)
    targets = np.arange(n) % n_classes
    seconds = np.arange(backbone.window_length) / backbone.sample_rate
    pitch = 200.0 * 1.6 ** (targets + rng.normal(0.0, 0.3, n))
    tone = np.sin(2.0 * np.pi * pitch[:, None] * seconds)
    waveform = 0.05 * tone + 0.05 * rng.standard_normal(tone.shape)
    parts = [backbone.features(part.to(device)).cpu() for part in torch.tensor(waveform).float().split(16)]
    return Lesson(1, torch.cat(parts), torch.from_numpy(targets), n_classes)
