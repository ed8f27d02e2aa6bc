"""The kinds of backbone there are: from the word in a checkpoint to a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.errors import BundleError
from trainer.backbones.backbone import Backbone

KINDS = ("student", "tiny_transformer", "eat", "beats", "ast")


def backbone_class(kind: str) -> type[Backbone]:
    """The class of a kind. Raises BundleError for a kind that is not known."""
    if kind == "student":
        from trainer.backbones.student import Student

        return Student
    if kind == "tiny_transformer":
        from trainer.backbones.tiny_transformer import TinyTransformer

        return TinyTransformer
    if kind == "eat":
        from trainer.backbones.eat import Eat

        return Eat
    if kind == "beats":
        from trainer.backbones.beats import Beats

        return Beats
    if kind == "ast":
        from trainer.backbones.ast import Ast

        return Ast
    raise BundleError(f"a checkpoint is of kind {kind!r}; wanted {', '.join(KINDS)}")


def backbone_of_kind(kind: str, description: Mapping[str, Any]) -> Backbone:
    """Build an untrained backbone from what ``Backbone.description`` said. Raises BundleError."""
    return backbone_class(kind).from_description(description)
