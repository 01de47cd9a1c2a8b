"""Containers that are kept running to be looked at, and the memory of the monitors behind them."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from measure import Command, Unavailable

START_LIMIT_SECONDS = 120
END_LIMIT_SECONDS = 20
KIB_PER_MIB = 1024


@dataclass(frozen=True)
class Mapping:
    """One mapping of /proc/PID/smaps; sizes in KiB."""

    permissions: str
    path: str
    size_kib: int
    resident_kib: int


def parse_smaps(text: str) -> list[Mapping]:
    """The mappings of a process, from what the kernel prints (proc(5), /proc/pid/smaps)."""
    mappings = []
    head = re.compile(r"^[0-9a-f]+-[0-9a-f]+ (\S{4}) \S+ \S+ \S+ *(.*)$")
    permissions, path = "", ""
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        if match := head.match(line):
            permissions, path = match.groups()
            sizes = {}
        elif match := re.match(r"^(Size|Rss): +(\d+) kB$", line):
            sizes[match[1]] = int(match[2])
            if len(sizes) == 2:
                mappings.append(Mapping(permissions, path, sizes["Size"], sizes["Rss"]))
    return mappings


def is_guest_memory(mapping: Mapping) -> bool:
    """Pieces of guest memory are large, and nothing else that a monitor maps writable is: stacks have 2 MiB."""
    return mapping.permissions.startswith("rw") and mapping.size_kib > 4 * KIB_PER_MIB


def resident_beyond_guest_mib(mappings: list[Mapping], guest_mib: int) -> float:
    """What is resident outside the guest's memory, which is at least what the container may use."""
    found = sum(mapping.size_kib for mapping in mappings if is_guest_memory(mapping))
    if found < guest_mib * KIB_PER_MIB:
        raise Unavailable(f"the monitor maps {found} KiB that look like guest memory, not {guest_mib} MiB")
    return sum(mapping.resident_kib for mapping in mappings if not is_guest_memory(mapping)) / KIB_PER_MIB


def rollup_mib(process: int, name: str) -> float:
    """A process's memory: all that is resident, `Rss`, or its proportional share of that, `Pss`."""
    return kib_of(Path(f"/proc/{process}/smaps_rollup"), name) / KIB_PER_MIB


def peak_mib(process: int) -> float:
    """The most that was ever resident of a process."""
    return kib_of(Path(f"/proc/{process}/status"), "VmHWM") / KIB_PER_MIB


def kib_of(path: Path, name: str) -> int:
    """A size as the kernel prints it in files of proc(5)."""
    match = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    if match is None:
        raise Unavailable(f"the kernel tells no {name} in {path}")
    return int(match[1])


def processes_of(program: Path) -> set[int]:
    """Every process that runs a program."""
    found = set()
    for entry in Path("/proc").iterdir():
        # Processes end while they are looked at.
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "exe").samefile(program):
                found.add(int(entry.name))
    return found


@contextlib.contextmanager
def running(command: Command, up: bytes, monitor: Path) -> Iterator[int]:
    """Runs a container in the background until left; gives its monitor's process id.

    The container says `up` on a line of its own when it is to be looked at. It is ended by killing its monitor, of
    which the daemon tells the client.
    """
    before = processes_of(monitor)
    client = subprocess.Popen(command.words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_for_line(client, up)
        new = processes_of(monitor) - before
        if len(new) != 1:
            raise Unavailable(f"{len(new)} monitors appeared with the container, not one")
        yield new.pop()
    finally:
        end(processes_of(monitor) - before)
        client.kill()
        client.communicate()


def wait_for_line(client: subprocess.Popen[bytes], wanted: bytes) -> None:
    """Reads the container's output up to a line; whatever comes before it is dropped."""
    assert client.stdout is not None
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while line := client.stdout.readline():
        if line.strip() == wanted:
            return
        if time.monotonic() > deadline:
            break
    client.kill()
    _, errors = client.communicate()
    raise Unavailable(f"the container never said {wanted.decode()}: {errors.decode(errors='replace').strip()}")


def end(processes: set[int], how: int = signal.SIGKILL) -> None:
    """Ends processes, and waits until they are gone."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
    deadline = time.monotonic() + END_LIMIT_SECONDS
    while alive := {pid for pid in processes if Path(f"/proc/{pid}").exists()}:
        if time.monotonic() > deadline:
            raise Unavailable(f"{len(alive)} processes outlive a signal")
        time.sleep(0.05)


def end_daemon(program: Path, state: Path) -> None:
    """Ends the daemon of a state folder, if there is one."""
    end({pid for pid in processes_of(program) if os.fsencode(state) in words_of(pid)}, signal.SIGTERM)


def end_daemons_below(program: Path, folder: Path) -> None:
    """Ends the daemons of all state folders below a folder."""
    below = os.fsencode(folder) + b"/"
    found = {pid for pid in processes_of(program) if any(word.startswith(below) for word in words_of(pid))}
    end(found, signal.SIGTERM)


def words_of(process: int) -> list[bytes]:
    """A process's command line; nothing once it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
