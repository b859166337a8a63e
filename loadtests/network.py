"""What lies between the parts of a cluster on loopback: links that can be cut, and a load balancer."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

from understudy.runtime.ports import free_port

HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
"""Debian's load balancer, where it is installed; None where it is not."""
SLOTS = 8
CONFIGURATION = """
global
  stats socket {socket} level admin
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
  timeout check 2s
  retries 3
  option redispatch 1
  retry-on conn-failure
frontend callers
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  balance roundrobin
  option httpchk GET /readyz
  http-check expect status 200
  default-server check inter 100ms fastinter 100ms downinter 100ms rise 1 fall 1
  server-template replica {slots} 127.0.0.1:9 disabled
"""


Result = TypeVar("Result")


class Looping:
    """Something that lives on an event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[object, object, Result]) -> Result:
        """Run a coroutine there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def end(self) -> None:
        """Stop what runs there, and the loop."""
        self.call(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Link(Looping):
    """A TCP connection through which a replica reaches its database; `cut` it, and nothing goes through, nor is it closed."""

    def __init__(self, to_port: int) -> None:
        super().__init__()
        self._to_port = to_port
        self._open = asyncio.Event()
        self._open.set()
        self._server = self.call(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Stop."""
        self._loop.call_soon_threadsafe(self._server.close)
        self.end()

    def cut(self) -> None:
        """Let nothing through any more."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def mend(self) -> None:
        """Let everything through again, what has waited first."""
        self._loop.call_soon_threadsafe(self._open.set)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    await self._open.wait()
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()


class Balancer:
    """HAProxy: round robin over the replicas whose `/readyz` says so, asked ten times a second.

    A check may take two seconds: by default it may take its interval, and a replica on a busy machine is then taken for a dead one.
    A request whose connection could not be made goes to another replica; one that was sent is not tried again, since it is no
    balancer's to know whether a POST may be.

    Raises:
        RuntimeError: it does not start.
    """

    def __init__(self, folder: Path) -> None:
        assert HAPROXY is not None
        self._slots: dict[str, str] = {}
        self._free = [f"replica{i}" for i in range(1, SLOTS + 1)]
        self._socket = Path(tempfile.mkdtemp()) / "admin"  # a path that a socket may have: short
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        file, log = folder / "haproxy.cfg", folder / "haproxy.log"
        file.write_text(CONFIGURATION.format(socket=self._socket, port=port, slots=SLOTS), encoding="utf-8")
        with log.open("wb") as out:
            self._process = subprocess.Popen([HAPROXY, "-db", "-f", str(file)], stdout=out, stderr=out)
        until = time.monotonic() + 10
        while not self._socket.exists():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"haproxy does not start:\n{log.read_text()}")
            time.sleep(0.02)

    def add(self, url: str) -> None:
        """Know a replica from now on; it gets requests when it says that it is ready."""
        slot = self._slots[url] = self._free.pop(0)
        port = url.rpartition(":")[2]
        self._ask(f"set server replicas/{slot} addr 127.0.0.1 port {port}")
        self._ask(f"set server replicas/{slot} health down")
        self._ask(f"set server replicas/{slot} state ready")

    def remove(self, url: str) -> None:
        """Forget a replica."""
        slot = self._slots.pop(url)
        self._ask(f"set server replicas/{slot} state maint")
        self._free.append(slot)

    def ready(self) -> set[str]:
        """Those that get requests."""
        lines = [line.split(",") for line in self._ask("show stat").splitlines() if line.startswith("replicas,")]
        up = {fields[1] for fields in lines if fields[17].startswith("UP")}
        return {url for url, slot in self._slots.items() if slot in up}

    def close(self) -> None:
        """Stop."""
        self._process.kill()
        self._process.wait(10)
        shutil.rmtree(self._socket.parent, ignore_errors=True)

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as there:
            there.settimeout(10)
            there.connect(str(self._socket))
            there.sendall(command.encode() + b"\n")
            said = b"".join(iter(lambda: there.recv(65536), b""))
        return said.decode()
