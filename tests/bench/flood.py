"""A container that prints without rest, readers of its log that come and are killed, and what both leave behind.

Owns what the container prints and how that is checked: blocks of a MiB of numbered lines, each behind a line with the
block's number, and a last line with how many there were. No byte can be missing, doubled or elsewhere unnoticed.
"""

import contextlib
import os
import random
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from measure import Unavailable, progress

LINE_BYTES = 64
LINES = 16384
BLOCK = b"".join(b"%0*d\n" % (LINE_BYTES - 1, index) for index in range(LINES))
# Prints blocks until SIGTERM; `cat` passes a block on faster than anything else in busybox.
SCRIPT = (
    f'awk "BEGIN {{ for (i = 0; i < {LINES}; i++) printf \\"%0{LINE_BYTES - 1}d\\\\n\\", i }}" > /tmp/block; '
    "trap stop=1 TERM; n=0; "
    'while [ -z "$stop" ]; do n=$((n + 1)); echo $n; cat /tmp/block; done; echo end $n'
)
# The longest last line.
END_BYTES = 64
READ_BYTES = 1 << 20
# Readers at a time besides the one that stays, and how long one lives.
READERS = 4
READER_LIFE_SECONDS = (0.05, 3.0)
TICK_SECONDS = 0.05
# A log's entry as it is written for a line of digits or of `end N`.
ENTRY = re.compile(rb'^\{"log":"([0-9a-z ]*)\\n","stream":"stdout","time":"[0-9TZ:.-]+"\}$', re.MULTILINE)


class Damaged(Exception):
    """Other bytes than the container printed; the text says where."""


class Checker:
    """Compares what arrives, piece by piece, with what the container prints."""

    def __init__(self) -> None:
        self.received = 0
        self.blocks = 0
        self.expected = b"1\n" + BLOCK
        self.at = 0
        self.end = b""

    def feed(self, piece: bytes) -> None:
        """Raises Damaged at the first byte that is wrong."""
        place = 0
        while place < len(piece):
            if self.end or (self.at == 0 and piece[place : place + 1] == b"e"):
                self.end += piece[place : place + END_BYTES]
                if len(self.end) > END_BYTES:
                    raise Damaged(f"bytes after the end: {self.end!r}")
                break
            length = min(len(piece) - place, len(self.expected) - self.at)
            found, wanted = piece[place : place + length], self.expected[self.at : self.at + length]
            if found != wanted:
                wrong = next(index for index in range(length) if found[index] != wanted[index])
                around = found[max(0, wrong - 8) : wrong + 80]
                raise Damaged(f"byte {self.received + place + wrong}, in block {self.blocks + 1}: …{around!r}")
            place += length
            self.at += length
            if self.at == len(self.expected):
                self.blocks += 1
                self.expected = b"%d\n" % (self.blocks + 1) + BLOCK
                self.at = 0
        self.received += len(piece)

    def finish(self) -> None:
        """Raises Damaged unless the last line came, and counts what came before it."""
        if self.end != b"end %d\n" % self.blocks or self.at != 0:
            raise Damaged(f"it ends after {self.received} bytes, {self.blocks} blocks, with {self.end!r}")


def entries(lines: bytes) -> bytes:
    """What whole lines of a json-file log say that was printed."""
    texts = ENTRY.findall(lines)
    if len(texts) != lines.count(b"\n"):
        strange = next(line for line in lines.splitlines() if not ENTRY.fullmatch(line))
        raise Damaged(f"an entry of the log is none of what was printed: {strange[:200]!r}")
    return b"\n".join(texts) + b"\n" if texts else b""


def check_log(log: Path, checker: Checker) -> None:
    """Feeds a whole log file to a checker."""
    rest = b""
    with log.open("rb") as file:
        while piece := file.read(READ_BYTES):
            whole, feed, rest_of_piece = piece.rpartition(b"\n")
            if feed:
                checker.feed(entries(rest + whole + feed))
                rest = rest_of_piece
            else:
                rest += piece
    if rest:
        raise Damaged(f"the log ends within an entry: {rest[-200:]!r}")
    checker.finish()


class Survivor:
    """The reader that stays from the beginning to the end, and checks all that it reads."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.checker = Checker()
        self.damage = ""
        self.client = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self) -> None:
        assert self.client.stdout is not None and self.client.stderr is not None
        try:
            while piece := self.client.stdout.read(READ_BYTES):
                self.checker.feed(piece)
            if status := self.client.wait():
                said = self.client.stderr.read().decode(errors="replace").strip()
                raise Damaged(f"the reader ended with {status}: {said}")
            self.checker.finish()
        except Damaged as damage:
            self.damage = str(damage)
            self.client.kill()

    def result(self, limit_seconds: float) -> str:
        """What is wrong with what it read, once the container has ended; nothing if all came."""
        self.thread.join(limit_seconds)
        if self.thread.is_alive():
            self.damage = f"the reader has {self.checker.received} bytes, and no end, after {limit_seconds:.0f} s"
            self.client.kill()
            self.thread.join()
        self.client.wait()
        return self.damage


class Readers:
    """Readers of a log that are killed at random; every second one does not read what it is sent."""

    def __init__(self, words: tuple[str, ...], seed: int) -> None:
        self.words = words
        self.random = random.Random(seed)
        self.alive: list[tuple[float, subprocess.Popen[bytes]]] = []
        self.started = 0
        self.killed = 0

    def tick(self) -> None:
        """Kills those whose time has come, and lets others come in their place."""
        now = time.monotonic()
        for until, reader in list(self.alive):
            if until <= now:
                self.alive.remove((until, reader))
                self.kill(reader)
        while len(self.alive) < READERS:
            reads = self.started % 2 == 0
            where = ("--tail", str(self.random.randrange(1000))) if self.random.random() < 0.5 else ()
            reader = subprocess.Popen(
                (*self.words[:-1], *where, self.words[-1]), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if reads else subprocess.PIPE,
            )  # fmt: skip
            self.started += 1
            self.alive.append((now + self.random.uniform(*READER_LIFE_SECONDS), reader))

    def kill(self, reader: subprocess.Popen[bytes]) -> None:
        # One that ended by itself has not been killed.
        self.killed += reader.poll() is None
        reader.kill()
        if reader.stdout:
            reader.stdout.close()
        reader.wait()

    def end(self) -> None:
        for _, reader in self.alive:
            self.kill(reader)
        self.alive.clear()


@contextlib.contextmanager
def readers(words: tuple[str, ...], seed: int) -> Iterator[Readers]:
    """Readers while the block lasts; the last word of `words` names the container."""
    crowd = Readers(words, seed)
    try:
        yield crowd
    finally:
        crowd.end()


def least_free_bytes(total: int) -> int:
    """What must stay free on a disk of a size: a flood that comes so far is stopped early."""
    return min(5 << 30, total // 4)


def room_left(folder: Path) -> bool:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize > least_free_bytes(disk.f_blocks * disk.f_frsize)


def keep_up(folder: Path, seconds: float, crowd: Readers) -> float:
    """Lets it flood for so long, or until the disk is nearly full; the seconds that it did."""
    if not room_left(folder):
        raise Unavailable(f"there is too little room in {folder} for a flood")
    started = time.monotonic()
    while (took := time.monotonic() - started) < seconds and room_left(folder):
        crowd.tick()
        progress(f"{took:.0f} of {seconds:.0f} s, {crowd.killed} readers killed")
        time.sleep(TICK_SECONDS)
    return took
