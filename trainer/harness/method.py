"""What a method of class-incremental learning is to the harness: it learns session by session and scores windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainer.backbones.backbone import Backbone
from trainer.harness.material import Material
from trainer.protocols import Course, Session


class Method(Protocol):
    """``learn`` is called once for each session, in order; ``scores`` after any of them, for any rows.

    ``scores`` returns the names of the classes seen so far (k,), in any order, and (n_rows, k) float64, finite, larger
    is likelier. ``figures`` holds ``memory_bytes``, what a device would keep beside the backbone, and whatever else
    belongs in the result.
    """

    name: str

    def learn(self, session: Session) -> None: ...

    def scores(self, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.float64]]: ...

    def figures(self) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class MethodContext:
    """What a method is built from.

    backbone: the frozen original, shared by all methods; copy it to change it. embeddings: the frozen embeddings of
    all windows (n, dim) float32, computed once. out: a folder of its own. settings: KEY=VALUE from the command line,
    as words; read them with ``settings_from``.
    """

    backbone: Backbone
    material: Material
    embeddings: Callable[[], NDArray[np.float32]]
    course: Course
    seed: int
    out: Path
    threads: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)


MethodFactory: TypeAlias = Callable[[MethodContext], Method]


@dataclass(frozen=True)
class BudgetQuestion:
    """How may a method be set up on a device with so many bytes beside the backbone? dim: of the embedding."""

    n_bytes: int
    dim: int
    n_classes: int


@dataclass(frozen=True)
class MethodKind:
    """A row of the table of methods.

    keys: the settings that it takes, None when it does not say. fit: given the settings in words, those words changed
    so that the method fits a budget, None when it cannot; without ``fit`` a method is as large as it is.
    uses_embeddings: the frozen embeddings are then computed before the clock of a run starts. at_end: it learns when
    the last session has come and is asked only then.
    """

    name: str
    build: MethodFactory
    keys: tuple[str, ...] | None = None
    fit: Callable[[Mapping[str, str], BudgetQuestion], dict[str, str] | None] | None = None
    uses_embeddings: bool = False
    at_end: bool = False
