"""Kinds of paths that the commands take."""

from __future__ import annotations

from pathlib import Path

import click

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
NEW_FOLDER = click.Path(path_type=Path, file_okay=False)
