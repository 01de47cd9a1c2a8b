"""A daemon of its own for each suite: started in an empty state folder, with the images that the suite names.

Called by the `run` programs beside it. With CAPSID_TEST_SERVER set to an address as in DOCKER_HOST, nothing is started
and that server is tested instead, after all containers in it are removed: how a suite is tried on a real dockerd,
whose answers are the right ones.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVER_VARIABLE = "CAPSID_TEST_SERVER"
START_SECONDS = 60
STOP_SECONDS = 60

# Image of images/ → further names that suites know it by.
IMAGES = {
    "busybox": [],
    "stand-in": ["alpine:latest", "alpine:3.10", "localhost:5000/alpine:latest",
                 "localhost:5000/hello-world:linux", "localhost:5000/fussybeaver/uhttpd:latest"],
}


class DaemonError(Exception):
    """The daemon did not do what every suite needs of it; the text says what."""


@contextlib.contextmanager
def serve(name: str) -> Iterator[str]:
    """Yield the address of a server with IMAGES in it, as DOCKER_HOST wants it.

    `name` tells this daemon's log from others'. What still runs in it at the end is killed with it.
    """
    given = os.environ.get(SERVER_VARIABLE)
    if given:
        remove_containers(given)
        load_images(given)
        yield given
        return
    program = ROOT / "target/release/capsidd"
    if not program.is_file():
        raise DaemonError(f"{program} is missing: run 'make build'")
    folder = Path(tempfile.mkdtemp(prefix="capsid-clients."))
    log_path = ROOT / f"target/logs/{name}.daemon.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    address = f"unix://{folder}/capsid.sock"
    try:
        with log_path.open("wb") as log:
            process = subprocess.Popen([program, "--state-dir", folder / "state", "--host", address],
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            await_start(process, address, log_path)
            load_images(address)
            yield address
        finally:
            stop(process, address)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def relay(address: str, listen: str, *options: str) -> Iterator[str]:
    """Yield the address of a relay in front of the server at `address`; relay.py says what it is for."""
    process = subprocess.Popen([Path(__file__).with_name("relay.py"), *options, listen, address.removeprefix("unix://")],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        yield process.stdout.readline().strip()
        process.stdin.close()


def await_start(process: subprocess.Popen, address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if request(address, "GET", "/_ping")[0] == 200:
                return
        time.sleep(0.05)
    raise DaemonError(f"the daemon does not answer:\n{log.read_text(errors='replace')[-2000:]}")


def stop(process: subprocess.Popen, address: str) -> None:
    """Kill what the suite left running, for containers outlive their daemon; then end the daemon."""
    if process.poll() is None:
        with contextlib.suppress(OSError, DaemonError):
            remove_containers(address)
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise DaemonError(f"the daemon did not end within {STOP_SECONDS} seconds of SIGTERM") from None


def remove_containers(address: str) -> None:
    _, body = request(address, "GET", "/containers/json?all=1")
    for container in json.loads(body):
        request(address, "DELETE", f"/containers/{container['Id']}?force=1&v=1")


def load_images(address: str) -> None:
    for image, names in IMAGES.items():
        archive = ROOT / f"images/out/{image}.tar"
        if not archive.is_file():
            raise DaemonError(f"{archive} is missing: run 'make images'")
        status, body = request(address, "POST", "/images/load?quiet=1", archive.read_bytes())
        if status != 200 or b'"error"' in body:
            raise DaemonError(f"loading {image} answered {status}: {body.decode(errors='replace')}")
        for reference in names:
            repository, _, tag = reference.rpartition(":")
            query = urllib.parse.urlencode({"repo": repository, "tag": tag})
            status, body = request(address, "POST", f"/images/{image}/tag?{query}")
            if status != 201:
                raise DaemonError(f"tagging {image} answered {status}: {body.decode(errors='replace')}")


def request(address: str, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One exchange with a server on a unix socket: status and body."""
    connection = UnixConnection(address.removeprefix("unix://"))
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class UnixConnection(http.client.HTTPConnection):
    """http.client over a unix socket."""

    def __init__(self, path: str):
        super().__init__("docker", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)
