"""What does adapting a backbone cost: LoRA against a plain peft loop, PACE against naive adaptation, the statistics?

EAT-base with random weights, which cost as much as trained ones and answer no question of accuracy, and the student of
the evaluation bundle. Peers take turns in one process. On the CPU one thread, float32 and processor seconds; on CUDA
bfloat16, wall seconds and a synchronised device. A peak is the best of several large matrix products in the same
precision, between the rounds: a share of what this machine does just now, not of a data sheet.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks.pace_cost import epoch_rows, first_session, identity_rows, once_row  # noqa: E402
from benchmarks.turns import EAT_BASE, Bench, lesson_of, random_eat  # noqa: E402
from trainer.backbones.backbone import Backbone  # noqa: E402
from trainer.backbones.bundled import student_of_bundle  # noqa: E402
from trainer.backbones.eat import EatSettings  # noqa: E402
from trainer.pace.fitting import Fitting, Lesson, Stage  # noqa: E402
from trainer.pace.lora import with_lora  # noqa: E402
from trainer.pace.settings import PaceSettings  # noqa: E402

EVALUATION = Path(__file__).resolve().parent / "bundles" / "evaluation"
RATE = 1e-3  # so low that nothing is memorised: gradients that vanish are denormal, and those cost many times as much
Row = dict[str, Any]


class Loop(Protocol):
    """One epoch after the other over the same batches from the same start."""

    def epoch(self) -> None: ...

    def weights(self) -> list[Tensor]:
        """A and B of each block, then weight and bias of the head."""


class FittingLoop:
    """Ours. No gradient is as long as the bound, so that clipping changes nothing; it is paid for all the same."""

    def __init__(self, backbone: Backbone, lesson: Lesson, settings: PaceSettings) -> None:
        blocks = range(len(backbone.blocks))
        self.live = with_lora(backbone, "ours", blocks, rank=settings.rank, alpha=settings.alpha, seed=settings.seed)
        self.head = nn.Linear(backbone.dim, lesson.n_classes).to(next(backbone.parameters()).device)
        self.lesson, self.settings = lesson, replace(settings, max_gradient_norm=1e9)
        self.n_epochs = 0

    def epoch(self) -> None:
        rate = self.settings.backbone_learning_rate
        stage = Stage("throughput", self.n_epochs, 1, rate, rate)
        Fitting(self.live.model, self.head, self.lesson, stage, self.settings, lora=self.live).run()
        self.n_epochs += 1

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in (*self.live.parameters(), *self.head.parameters())]


class _Classifier(nn.Module):
    def __init__(self, backbone: Backbone, head: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone.encode(features))
        return logits


class PlainLoop:
    """The peer: get_peft_model around an eager module, a torch optimiser with its schedule, and nothing else."""

    def __init__(self, backbone: Backbone, lesson: Lesson, settings: PaceSettings, start: FittingLoop) -> None:
        config = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, bias="none",
            target_modules=list(backbone.lora_targets), modules_to_save=["head"],
        )  # fmt: skip
        whole: Any = _Classifier(copy.deepcopy(backbone), copy.deepcopy(start.head))
        self.model: Any = get_peft_model(whole, config).train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        with torch.no_grad():
            for own, theirs in zip(self.trained, start.weights(), strict=True):
                own.copy_(theirs)
        self.lesson, self.settings, self.n_epochs = lesson, settings, 0

    def epoch(self) -> None:
        s, lesson, device = self.settings, self.lesson, self.trained[0].device
        seeds = Stage("throughput", self.n_epochs, 1, 0.0, 0.0).seeds(s.seed, 0)
        batches = torch.from_numpy(np.random.default_rng(seeds).permutation(len(lesson))).split(s.batch_size)
        optimizer = torch.optim.SGD(
            self.trained, lr=s.backbone_learning_rate, momentum=s.momentum, weight_decay=s.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(batches))
        for rows in batches:
            x, targets = lesson.features[rows].to(device), lesson.targets[rows].to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=s.precision == "bfloat16"):
                loss = nn.functional.cross_entropy(self.model(x), targets)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        self.n_epochs += 1

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.trained]


def operations(loop: FittingLoop) -> float:
    """Of one window forward and backward, by torch's counter; attention counted as the products that it is."""
    model, lesson = loop.live.model, loop.lesson
    x = lesson.features[:2].to(loop.head.weight.device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        torch.autograd.backward(
            nn.functional.cross_entropy(loop.head(model.encode(x)), lesson.targets[:2].to(x.device))
        )
    return float(counter.get_total_flops()) / len(x)


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(float((a.float() - b.float()).abs().max()) for a, b in zip(ours, theirs, strict=True))


def throughput_rows(settings: EatSettings, n_windows: int, batch: int, bench: Bench) -> list[Row]:
    """LoRA on all blocks and a head, ours and the plain loop in turns; they end at the same weights."""
    backbone = random_eat(settings, bench.device)
    lesson = lesson_of(backbone, n_windows, bench.device)
    pace = PaceSettings(batch_size=batch, precision=bench.precision, backbone_learning_rate=RATE)
    ours = FittingLoop(backbone, lesson, pace)
    plain = PlainLoop(backbone, lesson, pace, ours)
    flops = operations(ours)
    loops: dict[str, Loop] = {"plain peft loop": plain, "soundkeep": ours}
    times, peak = bench.turns({name: loop.epoch for name, loop in loops.items()})
    apart = largest_difference(ours.weights(), plain.weights())
    rows = []
    for name, found in times.items():
        ratios = np.array(times["plain peft loop"]) / found
        rate = n_windows / float(np.median(found))
        rows.append(
            {
                "loop": name,
                "frames": settings.target_frames,
                "batch": batch,
                "windows/s": rate,
                "spread": (max(found) - min(found)) / float(np.median(found)),
                "of plain": float(np.median(ratios)),
                "least": float(ratios.min()),
                "most": float(ratios.max()),
                "GFLOP/window": flops / 1e9,
                "peak GFLOP/s": peak / 1e9,
                "share of peak": rate * flops / peak,
                "weights apart": apart,
            }
        )
    return rows


def session_rows(name: str, backbone: Backbone, n_windows: int, points: int, bench: Bench) -> tuple[list[Row], Row]:
    """Epochs of the first session of one backbone, and what the session pays once."""
    session = first_session(backbone, n_windows, points, PaceSettings().batch_size, bench)
    rows = epoch_rows(name, session, bench)
    return rows, once_row(name, session, rows[0]["s an epoch"])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--depth", type=int, default=EAT_BASE.depth, help="blocks of the EAT")
    arguments.add_argument("--rounds", type=int, default=5, help="how often peers take turns")
    arguments.add_argument("--batches", type=int, help="of an epoch; 2 on the CPU and 20 on CUDA unless told")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    quick, on_cuda = bool(options.quick), str(options.device).startswith("cuda")
    n = options.batches or (1 if quick else 20 if on_cuda else 2)
    bench = Bench(torch.device(options.device), 1 if quick else options.rounds, 8192 if on_cuda else 2048)
    eat = replace(EAT_BASE, depth=min(2, options.depth) if quick else options.depth)
    long = replace(eat, window_length=80000, target_frames=512)
    batch = 4 if quick else 24
    where = torch.cuda.get_device_name(bench.device) if on_cuda else "one thread of the CPU"

    print(f"\nLoRA on all {eat.depth} blocks of an EAT of base width, {where}, {bench.precision}\n")
    loops = throughput_rows(eat, n * batch, batch, bench)
    loops += throughput_rows(long, n * batch if on_cuda else n * batch // 3, batch if on_cuda else batch // 3, bench)
    print_table(loops)

    student = student_of_bundle(EVALUATION).to(bench.device).requires_grad_(False)
    windows = n * batch
    cases: list[tuple[str, Backbone, int, int]] = [
        ("EAT", random_eat(eat, bench.device), windows, windows),
        ("student", student, 4 * windows, 4 * windows),
        ("student, few windows", student, windows, PaceSettings().most_boundary_points),
    ]
    epochs: list[Row] = []
    once: list[Row] = []
    for name, backbone, n_windows, points in cases:
        rows, row = session_rows(name, backbone, n_windows, points, replace(bench, rounds=min(3, bench.rounds)))
        epochs += rows
        once.append(row)
    print("\nan epoch of the first session, one perturbed view; the refresh of the landmarks is part of it\n")
    print_table(epochs)
    print("\npaid once by a first session\n")
    print_table(once)

    print("\nidentities and the statistics\n")
    identities = identity_rows(eat, min(windows, 48), 1024 if quick else 8192, bench)
    print_table(identities)
    results = {"device": where, "precision": bench.precision, "depth": eat.depth, "rounds": bench.rounds}
    tables = {"loops": loops, "epochs": epochs, "once": once, "identities": identities}
    write_results(options.out, "training_throughput", {**results, **tables})


if __name__ == "__main__":
    main()
