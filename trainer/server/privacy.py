"""Labels that the operator marked private: the server wants nothing of them, and says so to the devices."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from trainer.server.collecting import remove_homeless_clips
from trainer.server.tables import Embedded, LabelRule, State

_WAITS = "waits for a statement without label "


def private_labels(session: Session, device_id: str) -> tuple[str, ...]:
    """Return the labels that a device keeps to itself, sorted; its own rule of a label goes before that of all."""
    rules = session.scalars(select(LabelRule).where(LabelRule.device_id.in_(("", device_id))))
    action = {rule.label: rule.action for rule in sorted(rules, key=lambda rule: rule.device_id)}
    return tuple(sorted(label for label, what in action.items() if what == "private"))


def apply_private_labels(session: Session, device_id: str) -> set[str]:
    """Hold a device's statement back while it holds a private label, and remove what the server has under it.

    Call it after a statement was accepted and after rules changed; the device's row is locked by the caller.
    Returns names of blobs that may have no owner left (``collecting.collect``, after the commit).
    """
    state = session.get(State, device_id)
    if state is None:
        return set()
    private = [label for label in private_labels(session, device_id) if label in state.labels]
    if private:
        state.held_back = _WAITS + ", ".join(repr(label) for label in private)
    elif state.held_back is not None and state.held_back.startswith(_WAITS):
        state.held_back = None
    if not private:
        return set()
    session.execute(delete(Embedded).where(Embedded.device_id == device_id, Embedded.label.in_(private)))
    return remove_homeless_clips(session, device_id)
