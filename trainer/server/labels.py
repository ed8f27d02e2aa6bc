"""What the operator decides about the labels of the devices: merge, split, keep private.

A rule of one device goes before the rule for all. Merges are followed to their end; rules that would go in a circle are
refused. A rule never changes what a device knows or sent: it renames classes while the fleet is summed up, exactly, and
taking it back gives the bits that were there before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from edge.errors import LabelError
from edge.records import BACKGROUND, normalize_label
from trainer.server.collecting import collect
from trainer.server.database import lock_row, reading, transaction
from trainer.server.devices import show_device
from trainer.server.opening import Server
from trainer.server.privacy import apply_private_labels
from trainer.server.tables import LABEL_ACTIONS, Device, LabelRule

MERGE, SPLIT, PRIVATE = LABEL_ACTIONS
ALL = ""
Resolve = Callable[[str, str], "str | None"]
"""Device id and its label to the label of the fleet, None for one that is private."""


@dataclass(frozen=True)
class Rule:
    """device_id: ``ALL`` for every device that has no rule of its own for this label. target: None where none is."""

    device_id: str
    label: str
    action: str
    target: str | None = None


class LabelRules:
    """All rules, ready to be asked. names: name of each device by its id."""

    def __init__(self, rules: Iterable[Rule], names: Mapping[str, str]) -> None:
        self._rules = {(rule.device_id, rule.label): rule for rule in rules}
        self._names = names
        shared = Counter(names.values())
        self._unique = {i: name if shared[name] == 1 else f"{name} {i[:8]}" for i, name in names.items()}

    def rule_of(self, device_id: str, label: str) -> Rule | None:
        """The rule that counts for a device's label."""
        return self._rules.get((device_id, label)) or self._rules.get((ALL, label))

    def resolve(self, device_id: str, label: str) -> str | None:
        """Return what the fleet calls a device's label, None where it is private."""
        seen: set[str] = set()
        while label not in seen:
            seen.add(label)
            rule = self.rule_of(device_id, label)
            if rule is None:
                return label
            if rule.action == PRIVATE:
                return None
            if rule.action == SPLIT:
                return rule.target or f"{label} ({self._unique.get(device_id, device_id[:8])})"
            label = rule.target or label
        return label  # rules in a circle are refused when they are set

    def mapping(self, device_id: str, labels: Iterable[str]) -> dict[str, str]:
        """Return the labels of a device that have another name in the fleet; private ones are held back before."""
        resolved = {label: self.resolve(device_id, label) for label in labels if label != BACKGROUND}
        return {label: name for label, name in resolved.items() if name is not None and name != label}

    def circle(self) -> list[str] | None:
        """Return the labels of merges that lead back to their beginning, for any device; None when there are none."""
        for device_id in {ALL, *(device_id for device_id, _ in self._rules)}:
            for _, start in self._rules:
                path, label = [start], start
                while (rule := self.rule_of(device_id, label)) is not None and rule.action == MERGE and rule.target:
                    label = rule.target
                    if label in path:
                        return [*path, label]
                    path.append(label)
        return None


def label_rules(session: Session) -> LabelRules:
    """Read all rules and the devices' names."""
    names = {row[0]: row[1] for row in session.execute(select(Device.id, Device.name))}
    return LabelRules(_rows(session), names)


def resolver(session: Session) -> Resolve:
    """What the fleet calls a device's label."""
    return label_rules(session).resolve


def list_rules(server: Server) -> list[Rule]:
    """All rules, those for every device first."""
    with reading(server.engine) as session:
        return _rows(session)


def set_rule(server: Server, action: str, label: str, target: str | None = None, *, device: str | None = None) -> Rule:
    """Decide about a label, in the place of an earlier decision. device: id, its beginning or a name; None: all.

    A private label takes effect at once: statements that hold it are held back until the device sends one without it,
    and embeddings and clips under it are removed. Raises LabelError, MisuseError.
    """
    label = normalize_label(label)
    target = None if target is None else normalize_label(target)
    if action not in LABEL_ACTIONS:
        raise LabelError(f"{action!r} cannot be done with a label; choose one of {', '.join(LABEL_ACTIONS)}")
    if action == MERGE and (target is None or target == label):
        raise LabelError(f"label {label!r} is merged into another one; name that one")
    if action == PRIVATE and target is not None:
        raise LabelError(f"a private label has no other name in the fleet; leave {target!r} out")
    if action == SPLIT and device is None and target is not None:
        raise LabelError(
            f"label {label!r} of every device cannot be split into one {target!r}; name a device, or merge"
        )
    rule = Rule(ALL if device is None else str(show_device(server, device)["id"]), label, action, target)
    with transaction(server.engine) as session:
        devices = _locked(session, rule.device_id)
        row = session.get(LabelRule, (rule.device_id, label))
        if row is None:
            row = LabelRule(device_id=rule.device_id, label=label)
            session.add(row)
        row.action, row.target = action, target
        session.flush()
        circle = label_rules(session).circle()
        if circle is not None:
            raise LabelError(f"these merges go in a circle: {' -> '.join(circle)}; clear one of them first")
        let_go = _apply(session, devices)
    collect(server, let_go)
    return rule


def clear_rule(server: Server, label: str, *, device: str | None = None) -> Rule:
    """Take a decision back; statements that only it held back count again. Raises LabelError when there is none."""
    label = normalize_label(label)
    device_id = ALL if device is None else str(show_device(server, device)["id"])
    with transaction(server.engine) as session:
        devices = _locked(session, device_id)
        row = session.get(LabelRule, (device_id, label))
        if row is None:
            whose = "every device" if device_id == ALL else f"device {device!r}"
            raise LabelError(f"there is no rule for label {label!r} of {whose}; see 'soundkeep-trainer labels list'")
        rule = Rule(device_id, label, row.action, row.target)
        session.delete(row)
        session.flush()
        let_go = _apply(session, devices)
    collect(server, let_go)
    return rule


def _rows(session: Session) -> list[Rule]:
    rows = session.scalars(select(LabelRule).order_by(LabelRule.device_id, LabelRule.label))
    return [Rule(row.device_id, row.label, row.action, row.target) for row in rows]


def _locked(session: Session, device_id: str) -> list[str]:
    """Lock the devices that a rule is about, in one order, so that no statement arrives while it changes."""
    ids = session.scalars(select(Device.id).order_by(Device.id)).all() if device_id == ALL else [device_id]
    return [i for i in ids if lock_row(session, Device, i) is not None]


def _apply(session: Session, devices: Iterable[str]) -> set[str]:
    return {name for device_id in devices for name in apply_private_labels(session, device_id)}
