"""How a command answers: for people on stdout, or with ``--json`` as one JSON object a line; remarks go to stderr."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True)
class Answers:
    """What the global options of ``soundkeep-trainer`` say about answers; commands get it by ``@click.pass_obj``."""

    as_json: bool = False

    def answer(self, value: Any, words: str) -> None:
        """Print one answer: ``value`` as a line of JSON with ``--json``, else ``words`` (left out when empty)."""
        if self.as_json:
            click.echo(json.dumps(value, ensure_ascii=True, sort_keys=True))
        elif words:
            click.echo(words)

    def tell(self, words: str) -> None:
        """Say something about the answer that is no part of it."""
        click.echo(words, err=True)
