"""A PostgreSQL cluster of its own in a temporary folder, on a loopback port: started, stopped, restarted at will.

``initdb`` refuses to run as root, so it then runs as ``postgres`` or ``nobody``.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any


def find_binaries() -> Path | None:
    """Return the folder of ``initdb`` and ``pg_ctl``; None where PostgreSQL is not installed."""
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = newest[-1] if newest else shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


class PostgreSQL:
    """One cluster; ``url(database)`` is what ``--database`` takes. Use it in a ``with``."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="soundkeep-pg-", dir="/tmp"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._user = _unprivileged()
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)

    def __enter__(self) -> PostgreSQL:
        cluster = self._folder / "cluster"
        self._run("initdb", "-D", cluster, "-U", "soundkeep", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self._folder} -c fsync=off -c max_connections=200"
        self._control("start", "-o", options, "-l", str(self._folder / "log"))

    def stop(self, mode: str = "immediate") -> None:
        """mode: ``fast`` breaks connections off in order, ``immediate`` is like a crash."""
        self._control("stop", "-m", mode)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://soundkeep@127.0.0.1:{self.port}/{database}"

    def make_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "soundkeep", name)
        return self.url(name)

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", self._folder / "cluster", "-w", *arguments)

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [str(self._binaries / program), *map(str, arguments)]
        who: dict[str, Any] = {}
        if self._user is not None:
            who = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        with open(os.devnull, "wb") as nowhere, tempfile.TemporaryFile() as said:
            done = subprocess.run(command, stdout=nowhere, stderr=said, cwd="/tmp", check=False, timeout=120, **who)
            said.seek(0)
            assert done.returncode == 0, (command, said.read().decode(errors="replace"))


def _unprivileged() -> pwd.struct_passwd | None:
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None
