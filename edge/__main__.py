"""``python -m edge`` is ``soundkeep``."""

from edge.cli import main

main(prog_name="soundkeep")
