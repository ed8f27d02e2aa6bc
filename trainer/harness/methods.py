"""The table of methods, and which setting goes to which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge.errors import ConfigurationError
from trainer.harness.frozen import ANALYTIC_DEFAULTS, LDA_DEFAULTS, analytic_kind
from trainer.harness.method import MethodKind
from trainer.harness.probe import LINEAR_PROBE
from trainer.harness.prototypes import NCM, TEEN

DEFAULT_METHODS = ("frozen-analytic", "ncm", "lda", "teen", "linear-probe", "naive-fsa", "fsa", "pace")


def known_methods() -> dict[str, MethodKind]:
    """Every method there is, by name: those on frozen embeddings, then those that train."""
    frozen = (
        analytic_kind("frozen-analytic", ANALYTIC_DEFAULTS),
        NCM,
        analytic_kind("lda", LDA_DEFAULTS),
        TEEN,
        LINEAR_PROBE,
    )
    return {kind.name: kind for kind in frozen} | _trained()


def _trained() -> dict[str, MethodKind]:
    from trainer.harness.trained import AT_END, trained_methods, trained_settings

    keys = trained_settings()
    return {
        name: MethodKind(name, build, keys.get(name), at_end=name in AT_END)
        for name, build in trained_methods().items()
    }


def choose(names: Sequence[str], known: Mapping[str, MethodKind]) -> list[MethodKind]:
    """The methods of a table, each once; the usual ones when none is named. Raises ConfigurationError."""
    if not names:
        return [known[name] for name in DEFAULT_METHODS if name in known]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(f"there is no method {unknown[0]!r}; wanted one of {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def deal_settings(pairs: Mapping[str, str], kinds: Sequence[MethodKind]) -> dict[str, dict[str, str]]:
    """Settings in words for each method. ``METHOD.KEY`` goes to one, ``KEY`` to every method that has it.

    Raises ConfigurationError for a key that no method of the table takes.
    """
    dealt: dict[str, dict[str, str]] = {kind.name: {} for kind in kinds}
    for given, value in sorted(pairs.items(), key=lambda pair: "." in pair[0]):
        method, _, key = given.rpartition(".")
        takers = [
            k for k in kinds if method in ("", k.name) and (key in k.keys if k.keys is not None else bool(method))
        ]
        if not takers:
            known = sorted({key for kind in kinds for key in kind.keys or ()})
            raise ConfigurationError(
                f"no method of this table ({', '.join(dealt)}) takes the setting {given}; wanted KEY=VALUE or "
                f"METHOD.KEY=VALUE with one of {', '.join(known) or 'none'}"
            )
        for kind in takers:
            dealt[kind.name][key] = value
    return dealt
