"""A PostgreSQL server of our own: run by the OS user `postgres`, its files in a new folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

# Written to the operating system at each commit, but not to the disk: what was acknowledged
# survives the death of every process, which is all that tests can bring about.
FAST = {"fsync": "off", "full_page_writes": "off"}


class Unavailable(Exception):
    """PostgreSQL cannot run here; the text says why."""


class Cluster:
    """One server: makes databases, cuts its clients off, is stopped and started again."""

    def __init__(self, **settings: str) -> None:
        if sys.platform == "win32" or not shutil.which("runuser"):
            raise Unavailable("a PostgreSQL of our own needs root, to run it as postgres")
        if not shutil.which("initdb") or not shutil.which("pg_ctl"):
            raise Unavailable("no PostgreSQL server is installed (initdb, pg_ctl)")
        self.folder = Path(tempfile.mkdtemp(prefix="foxden-pg-"))
        options = {"listen_addresses": "''", "unix_socket_directories": self.folder}
        pairs = {**options, **FAST, **settings}.items()
        self._options = " ".join(f"-c {name}={value}" for name, value in pairs)
        self._data = str(self.folder / "data")
        self._made = 0
        try:
            shutil.chown(self.folder, "postgres", "postgres")
            _run("initdb", "-D", self._data, "-A", "trust", "-U", "postgres", "--no-sync")
            self.start()
        except (OSError, LookupError, subprocess.SubprocessError) as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise Unavailable(f"PostgreSQL does not start here: {error}") from error

    def start(self) -> None:
        words = ("-D", self._data, "-w", "-l", f"{self.folder}/log", "-o", self._options)
        _run("pg_ctl", *words, "start")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is a crash: clients are cut off and the next start recovers from the log."""
        _run("pg_ctl", "-D", self._data, "-w", "-m", mode, "stop")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """The URL of an empty one."""
        self._made += 1
        name = f"foxden_{self._made}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def terminate_backends(self) -> int:
        """End every connection but this one in mid-sentence; returns how many there were."""
        found = self.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return int(found[0][0])

    def execute(self, statement: str) -> list[tuple]:
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        with suppress(subprocess.SubprocessError):
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def _run(*command: str) -> None:
    subprocess.run(
        ["runuser", "-u", "postgres", "--", *command],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        timeout=60,
    )
