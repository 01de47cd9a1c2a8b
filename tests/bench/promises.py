"""One function for each promise of PROMISES.md; each returns the rows that it contributes to the table."""

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import processes
import streams as stream
from daemon_promises import daemon_memory, exec_against_microsandbox, flooded, list_of_many, start_beside_many
from measure import Command, Subject, interleaved, ratio
from report import Row, bounded, compared, told
from session import Bench, Measurement, repeated
from subjects import BareQemu, Capsid, Engine, Microsandbox, SkopeoUmoci

IDLE_GUEST_MIB = 256
# What a machine takes to come to rest after its container started.
SETTLE_SECONDS = 4


def cold_start_emulated(bench: Bench) -> list[Row]:
    """P1."""
    folder = bench.fresh_folder("P1")
    bare = BareQemu(bench.artifacts, folder)
    bare.check(bare.tcg)
    return against_bare_qemu("P1", bench, folder, "emulated", bare.tcg, 1.6)


def cold_start_kvm(bench: Bench) -> list[Row]:
    """P2."""
    folder = bench.fresh_folder("P2")
    bare = BareQemu(bench.artifacts, folder)
    bare.check(bare.kvm)
    return against_bare_qemu("P2", bench, folder, "kvm", bare.kvm, 0.5)


def against_bare_qemu(
    promise: str, bench: Bench, folder: Path, engine: Engine, boot: Callable[[str], Command], bar: float
) -> list[Row]:
    capsid = Capsid(bench.artifacts, folder)
    # Its own, so that the daemon of the other is not always a new one.
    sleeper = Capsid(bench.artifacts, bench.fresh_folder(f"{promise}-cold"))
    ours, bare, quiet, cold = interleaved(
        [
            Subject("capsid run --rm busybox true", capsid.run(engine, "true").run, capsid.wake),
            Subject("bare QEMU", boot("").run),
            Subject("bare QEMU, quiet", boot("quiet").run),
            Subject(
                "capsid run --rm busybox true, and its daemon", sleeper.run(engine, "true").run, sleeper.put_to_sleep
            ),
        ],
        bench.rounds,
    )
    title = f"cold start, {engine}, against bare QEMU"
    return [
        compared(promise, title, ours, bare, ratio(ours, bare), bar),
        compared(promise, f"{title} that prints no log", ours, quiet, ratio(ours, quiet), None),
        compared(promise, f"cold start and the daemon's, {engine}, against bare QEMU", cold, bare, ratio(cold, bare), None),
    ]


def cold_start_microsandbox(bench: Bench) -> list[Row]:
    """P3."""
    folder = bench.fresh_folder("P3")
    capsid = Capsid(bench.artifacts, folder)
    peer = Microsandbox(bench.artifacts, folder)
    ours, theirs = interleaved(
        [
            Subject("capsid run --rm busybox true", capsid.run("kvm", "true").run, capsid.wake),
            Subject(f"microsandbox {peer.VERSION}, msb run busybox -- true", peer.run("true").run),
        ],
        bench.rounds,
    )
    return [compared("P3", "cold start, kvm, against microsandbox", ours, theirs, ratio(ours, theirs), 0.5)]


def streams(bench: Bench, engine: Engine) -> list[Row]:
    """P4."""
    capsid = Capsid(bench.artifacts, bench.fresh_folder(f"P4-{engine}"))
    # A file, for what makes the bytes would be what is measured.
    make = "head -c 16m /dev/zero | tr '\\0' x > /tmp/block"
    copies = f"for i in $(seq {stream.STREAM_MIB // 16}); do cat /tmp/block; done"
    out = capsid.run(engine, "sh", "-c", f"{make}; echo ready; {copies}")
    into = capsid.run(engine, "sh", "-c", "echo ready; exec sha256sum", options=("-i",))
    rows = []
    for title, measure in (
        (f"1 GiB through stdout, {engine}, intact", partial(stream.out_of_container, out)),
        (f"1 GiB through stdin to sha256sum, {engine}, intact", partial(stream.into_container, into)),
    ):
        rows.append(told("P4", title, repeated(title, "MB/s", measure, bench.few)))
    return rows


def monitor_memory(bench: Bench, engine: Engine) -> list[Row]:
    """P5. The guest has printed 16 MiB before, so that buffers are as large as they get."""
    capsid = Capsid(bench.artifacts, bench.fresh_folder(f"P5-{engine}"))
    script = "head -c 16m /dev/zero; echo; echo up; exec sleep 600"
    command = capsid.run(engine, "sh", "-c", script, options=("-m", f"{IDLE_GUEST_MIB}m"))

    def resident() -> float:
        with processes.running(command, b"up", bench.artifacts.monitor) as monitor:
            time.sleep(SETTLE_SECONDS)
            mappings = processes.parse_smaps(Path(f"/proc/{monitor}/smaps").read_text())
            return processes.resident_beyond_guest_mib(mappings, IDLE_GUEST_MIB)

    title = f"capsid-vmm beyond the guest's memory, resident, {engine}"
    return [bounded("P5", title, repeated(title, "MiB", resident, bench.few), 5)]


def idle_memory(bench: Bench) -> list[Row]:
    """P6."""
    capsid = Capsid(bench.artifacts, bench.fresh_folder("P6"))
    options = ("-m", f"{IDLE_GUEST_MIB}m")
    command = capsid.run("kvm", "sh", "-c", "echo up; exec sleep 600", options=options)

    def proportional() -> float:
        with processes.running(command, b"up", bench.artifacts.monitor) as monitor:
            time.sleep(SETTLE_SECONDS)
            return processes.rollup_mib(monitor, "Pss")

    title = f"capsid-vmm with an idle guest of {IDLE_GUEST_MIB} MiB, PSS, kvm"
    return [bounded("P6", title, repeated(title, "MiB", proportional, bench.few), 40)]


def load(bench: Bench) -> list[Row]:
    """P7. Both start from nothing but the archive, with everything written before the clock starts."""
    folder = bench.fresh_folder("P7")
    state, archive = folder / "capsid-state", bench.artifacts.debian
    peer = SkopeoUmoci(archive, folder)

    def clear_state() -> None:
        processes.end_daemon(bench.artifacts.daemon, state)
        shutil.rmtree(state, ignore_errors=True)
        os.sync()

    words = (str(bench.artifacts.capsid), "--state-dir", str(state), "load", "-i", str(archive))
    ours, theirs = interleaved(
        [
            Subject("capsid load -i debian.tar", Command(words).run, clear_state),
            Subject("skopeo copy, umoci unpack", peer.load().run, peer.before),
        ],
        bench.rounds,
    )
    return [compared("P7", "loading debian.tar, against skopeo and umoci", ours, theirs, ratio(ours, theirs), 1.0)]


ALL = (
    Measurement("P1", "here", "cold start, emulated, against bare QEMU", cold_start_emulated),
    Measurement("P2", "kvm", "cold start, kvm, against bare QEMU", cold_start_kvm),
    Measurement("P3", "kvm", "cold start, kvm, against microsandbox", cold_start_microsandbox),
    Measurement("P4", "here", "1 GiB through stdout and stdin, emulated", partial(streams, engine="emulated")),
    Measurement("P4", "kvm", "1 GiB through stdout and stdin, kvm", partial(streams, engine="kvm")),
    Measurement("P5", "here", "capsid-vmm's own memory, emulated", partial(monitor_memory, engine="emulated")),
    Measurement("P5", "kvm", "capsid-vmm's own memory, kvm", partial(monitor_memory, engine="kvm")),
    Measurement("P6", "kvm", "idle guest's memory, kvm", idle_memory),
    Measurement("P7", "here", "loading debian.tar", load),
    Measurement("P8", "kvm", "exec of true, kvm, against microsandbox", exec_against_microsandbox),
    Measurement("P9", "here", "list of many containers", list_of_many),
    Measurement("P10", "here", "start beside many, emulated", partial(start_beside_many, engine="emulated")),
    Measurement("P10", "kvm", "start beside many, kvm", partial(start_beside_many, engine="kvm")),
    Measurement("P11", "here", "the daemon's memory", daemon_memory),
    Measurement("P12", "here", "flood of stdout, emulated", partial(flooded, engine="emulated")),
    Measurement("P12", "kvm", "flood of stdout, kvm", partial(flooded, engine="kvm")),
)
