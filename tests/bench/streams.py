"""A gigabyte into a container and out of it, checked on the way."""

import contextlib
import functools
import hashlib
import io
import subprocess
import time
from collections.abc import Iterator
from typing import cast

from measure import Command, Unavailable

MIB = 1 << 20
# One GiB.
STREAM_MIB = 1024
READ_BYTES = 1 << 18
# What comes out of a container: text, for the log writes six bytes for one that is none. There are no lines in it.
SENT = b"x"
END_LIMIT_SECONDS = 60


def pattern(mebibytes: int) -> Iterator[bytes]:
    """Pieces of a MiB of which every one differs, so that none can be lost, doubled or swapped unnoticed."""
    block = hashlib.shake_256(b"capsid").digest(MIB)
    for index in range(mebibytes):
        yield index.to_bytes(8, "little") + block[8:]


@functools.cache
def pattern_digest(mebibytes: int) -> str:
    """What `sha256sum` says of the pattern."""
    digest = hashlib.sha256()
    for piece in pattern(mebibytes):
        digest.update(piece)
    return digest.hexdigest()


def out_of_container(command: Command) -> float:
    """MB/s of a container that prints `ready`, a line feed and then STREAM_MIB MiB of SENT."""
    with start(command) as client:
        assert client.stdout is not None
        await_ready(client)
        started = time.monotonic()
        sent, received = SENT * READ_BYTES, 0
        # read1: what is there, not what fills the buffer.
        while piece := cast(io.BufferedReader, client.stdout).read1(READ_BYTES):
            if piece != sent[: len(piece)]:
                raise Unavailable(f"not intact: other bytes than were sent, within {len(piece)} after {received}")
            received += len(piece)
        took = time.monotonic() - started
        check_end(client)
    if received != STREAM_MIB * MIB:
        raise Unavailable(f"not intact: {received} bytes arrived, not {STREAM_MIB * MIB}")
    return received / took / 1e6


def into_container(command: Command) -> float:
    """MB/s of a container that prints `ready` and then what `sha256sum` says of its standard input."""
    expected = pattern_digest(STREAM_MIB)
    with start(command) as client:
        assert client.stdin is not None and client.stdout is not None
        await_ready(client)
        started = time.monotonic()
        # A container that ends early says so by its exit status.
        with contextlib.suppress(BrokenPipeError):
            for piece in pattern(STREAM_MIB):
                client.stdin.write(piece)
            client.stdin.close()
        answer = client.stdout.read().split()
        took = time.monotonic() - started
        check_end(client)
    if not answer or answer[0].decode() != expected:
        raise Unavailable(f"not intact: the container read {answer[:1]}, not {expected}")
    return STREAM_MIB * MIB / took / 1e6


@contextlib.contextmanager
def start(command: Command) -> Iterator[subprocess.Popen[bytes]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command.words, stdin=pipe, stdout=pipe, stderr=pipe) as client:
        assert client.stdin is not None
        try:
            yield client
        finally:
            client.kill()
            # What it never read is nobody's any more.
            with contextlib.suppress(BrokenPipeError):
                client.stdin.close()


def await_ready(client: subprocess.Popen[bytes]) -> None:
    assert client.stdout is not None
    if client.stdout.readline() != b"ready\n":
        client.kill()
        raise Unavailable("the container did not start: " + errors_of(client))


def check_end(client: subprocess.Popen[bytes]) -> None:
    try:
        client.wait(END_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"capsid does not end within {END_LIMIT_SECONDS} s of its container's last byte") from None
    if client.returncode != 0:
        raise Unavailable(f"capsid ended with {client.returncode}: " + errors_of(client))


def errors_of(client: subprocess.Popen[bytes]) -> str:
    assert client.stderr is not None
    return client.stderr.read().decode(errors="replace").strip()
