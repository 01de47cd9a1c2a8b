"""A daemon of a measurement's own, in an empty state folder, spoken to over its socket without a client between.

Owns the daemon's process and a client of HTTP that costs next to nothing, since what is timed is the daemon. Called by
the promises about the daemon.
"""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import processes
from measure import Unavailable
from subjects import Artifacts, Engine

START_LIMIT_SECONDS = 60
ANSWER_LIMIT_SECONDS = 300
READ_BYTES = 1 << 18
# The longest head of an answer.
HEAD_BYTES = 1 << 16
# What keeps a container there until it is killed.
IDLE = ("sleep", "1000000")


class Connection:
    """A kept connection to a unix socket: one request after the other."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(ANSWER_LIMIT_SECONDS)
        self.socket.connect(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    def exchange(self, request: bytes) -> bytes:
        """The body of the answer to a request.

        Raises Unavailable with what the daemon said if it refused.
        """
        self.socket.sendall(request)
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            if len(received) > HEAD_BYTES:
                raise Unavailable("the daemon's answer has no end of its head")
            self.receive(received)
        head, body = bytes(received[:end]), received[end + 4 :]
        status, length = parse_head(head)
        if length is None:
            while not body.endswith(b"0\r\n\r\n"):
                self.receive(body)
            whole = unchunked(bytes(body))
        else:
            while len(body) < length:
                self.receive(body)
            whole = bytes(body)
        if status >= 400:
            asked = request.partition(b"\r\n")[0].decode()
            raise Unavailable(f"{asked} was answered with {status}: {whole.decode(errors='replace').strip()}")
        return whole

    def receive(self, into: bytearray) -> None:
        piece = self.socket.recv(READ_BYTES)
        if not piece:
            raise Unavailable("the daemon ended the connection before its answer was whole")
        into += piece


def request_of(method: str, path: str, body: bytes = b"", kind: str = "application/json") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: capsid\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def parse_head(head: bytes) -> tuple[int, int | None]:
    """Status and length of an answer (RFC 9112); no length is an answer in chunks."""
    status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    if status is None:
        raise Unavailable(f"the daemon does not answer in HTTP: {head[:80]!r}")
    if re.search(rb"^transfer-encoding: *chunked", head, re.MULTILINE | re.IGNORECASE):
        return int(status[1]), None
    length = re.search(rb"^content-length: *(\d+)", head, re.MULTILINE | re.IGNORECASE)
    return int(status[1]), int(length[1]) if length else 0


def unchunked(body: bytes) -> bytes:
    """The body that chunks make."""
    whole, at = bytearray(), 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].partition(b";")[0], 16)
        if size == 0:
            return bytes(whole)
        whole += body[end + 2 : end + 2 + size]
        at = end + 2 + size + 2


class Daemon:
    """capsidd while the block lasts, with the busybox image in it."""

    def __init__(self, artifacts: Artifacts, folder: Path, engine: Engine) -> None:
        self.artifacts = artifacts
        self.folder = folder
        self.state = folder / "state"
        self.socket = folder / "d.sock"
        self.engine = engine

    def __enter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        words = (str(self.artifacts.daemon), "--state-dir", str(self.state), "--host", f"unix://{self.socket}")
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.await_answer()
            archive = self.artifacts.busybox.read_bytes()
            self.send(request_of("POST", "/images/load?quiet=1", archive, "application/x-tar"))
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Containers outlive their daemon; their monitors go with it here, even if it went before its time.
        with contextlib.suppress(Unavailable, OSError):
            for container in json.loads(self.send(request_of("GET", "/containers/json"))):
                self.remove(container["Id"])
        processes.end(self.monitors())
        self.end()

    def monitors(self) -> set[int]:
        """The monitors that the records of this daemon's containers name and that run."""
        recorded = set()
        for path in self.state.glob("containers/*/container.json"):
            with contextlib.suppress(OSError, ValueError):
                recorded.add((json.loads(path.read_text())["state"].get("machine") or {}).get("pid"))
        return recorded & processes.processes_of(self.artifacts.monitor)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(processes.END_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.state, ignore_errors=True)

    def await_answer(self) -> None:
        deadline = time.monotonic() + START_LIMIT_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(Unavailable):
                self.send(request_of("GET", "/_ping"))
                return
            time.sleep(0.02)
        raise Unavailable("the daemon does not answer: " + self.log_tail())

    def log_tail(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:].strip()

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self) -> Connection:
        try:
            return Connection(self.socket)
        except OSError as error:
            how = self.process.poll()
            state = "runs" if how is None else f"has ended with {how}"
            raise Unavailable(f"the daemon, which {state}, cannot be reached: {error}\n{self.log_tail()}") from error

    def send(self, request: bytes) -> bytes:
        """One request on a connection of its own."""
        with self.connect() as connection:
            return connection.exchange(request)

    def creation(self, *command: str) -> bytes:
        """The request that creates a container."""
        document: dict[str, Any] = {
            "Image": "busybox",
            "Cmd": command,
            "HostConfig": {"Annotations": {"capsid.engine": self.engine}},
        }
        return request_of("POST", "/containers/create", json.dumps(document).encode())

    def create(self, *command: str) -> str:
        """A container's id."""
        return str(json.loads(self.send(self.creation(*command)))["Id"])

    def create_many(self, count: int) -> None:
        """Containers that nobody starts."""
        request = self.creation(*IDLE)
        with self.connect() as connection:
            for _ in range(count):
                connection.exchange(request)

    def start(self, container: str) -> float:
        """Seconds until the daemon says that the container's process runs."""
        request = request_of("POST", f"/containers/{container}/start")
        with self.connect() as connection:
            started = time.monotonic()
            connection.exchange(request)
            return time.monotonic() - started

    def remove(self, container: str) -> None:
        self.send(request_of("DELETE", f"/containers/{container}?force=1&v=1"))

    @contextlib.contextmanager
    def running(self, *command: str) -> Iterator[str]:
        """A container that runs while the block lasts."""
        container = self.create(*command)
        try:
            self.start(container)
            yield container
        finally:
            with contextlib.suppress(Unavailable, OSError):
                self.remove(container)

    def client(self, *arguments: str) -> tuple[str, ...]:
        """The words of a `capsid` that speaks to this daemon."""
        return (str(self.artifacts.capsid), "--host", f"unix://{self.socket}", *arguments)

    def record_folder(self, container: str) -> Path:
        return self.state / "containers" / container
