"""The promises of PROMISES.md about the daemon: one function for each, as in promises.py."""

import json
import threading
import time
from pathlib import Path

import flood
import processes
from daemon import IDLE, Connection, Daemon, request_of
from measure import Command, Series, Subject, Unavailable, interleaved, interval, ratio
from report import Row, bounded, checked, compared, told
from session import Bench, repeated
from subjects import Engine, Microsandbox

MANY, FEW = 1000, 10
RUNNING = 3
# Requests behind one sample of something that takes a millisecond.
LIST_REQUESTS = 20
LIST = request_of("GET", "/containers/json?all=1")
MEMORY_BAR_MIB = 60
MONITOR_BAR_MIB = 5
SAMPLE_SECONDS = 0.25
# How far a reader may be behind a container that ended.
READER_LIMIT_SECONDS = 600


def exec_against_microsandbox(bench: Bench) -> list[Row]:
    """P8."""
    folder = bench.fresh_folder("P8")
    peer = Microsandbox(bench.artifacts, folder)
    with Daemon(bench.artifacts, folder / "d", "kvm") as daemon, daemon.running(*IDLE) as container, peer.idle("x"):
        capsid = Command(daemon.client("exec", container, "true"))
        ours, theirs, alone = interleaved(
            [
                Subject("capsid exec CONTAINER true", capsid.run),
                Subject(f"microsandbox {peer.VERSION}, msb exec SANDBOX -- true", peer.execute("x", "true").run),
                Subject("the API alone", lambda: exec_over_api(daemon, container)),
            ],
            bench.rounds,
        )
    title = "exec of true, kvm"
    return [
        compared("P8", f"{title}, against microsandbox", ours, theirs, ratio(ours, theirs), 0.33),
        told("P8", f"{title}, over the API alone", alone),
    ]


def exec_over_api(daemon: Daemon, container: str) -> float:
    """Seconds of `true` from its creation to the end of its output, and of the question how it ended."""
    body = json.dumps({"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}).encode()
    create = request_of("POST", f"/containers/{container}/exec", body)
    started = time.monotonic()
    with daemon.connect() as connection:
        execution = json.loads(connection.exchange(create))["Id"]
        start = request_of("POST", f"/exec/{execution}/start", b'{"Detach": false, "Tty": false}')
        # Without an upgrade the output is the answer's body, which ends with it.
        connection.exchange(start)
    ended = json.loads(daemon.send(request_of("GET", f"/exec/{execution}/json")))
    took = time.monotonic() - started
    if ended["ExitCode"] != 0:
        raise Unavailable(f"true ended with {ended['ExitCode']}")
    return took


def list_of_many(bench: Bench) -> list[Row]:
    """P9."""
    folder = bench.fresh_folder("P9")
    with (
        Daemon(bench.artifacts, folder / "many", "emulated") as many,
        Daemon(bench.artifacts, folder / "few", "emulated") as few,
    ):
        many.create_many(MANY)
        few.create_many(FEW)
        with many.connect() as of_many, few.connect() as of_few:
            ours, theirs = interleaved(
                [
                    Subject(f"{MANY} containers", lambda: list_seconds(of_many, MANY)),
                    Subject(f"{FEW} containers", lambda: list_seconds(of_few, FEW)),
                ],
                bench.rounds,
            )
    return [compared("P9", f"GET /containers/json, {MANY} against {FEW}", ours, theirs, ratio(ours, theirs), 10)]


def list_seconds(connection: Connection, count: int) -> float:
    """Seconds of one request for the list, over some that follow each other."""
    started = time.monotonic()
    for _ in range(LIST_REQUESTS):
        body = connection.exchange(LIST)
    took = (time.monotonic() - started) / LIST_REQUESTS
    if len(json.loads(body)) != count:
        raise Unavailable(f"the list has {len(json.loads(body))} containers, not {count}")
    return took


def start_beside_many(bench: Bench, engine: Engine) -> list[Row]:
    """P10."""
    folder = bench.fresh_folder(f"P10-{engine}")
    with (
        Daemon(bench.artifacts, folder / "many", engine) as many,
        Daemon(bench.artifacts, folder / "none", engine) as none,
    ):
        many.create_many(MANY)
        ours, theirs = interleaved(
            [
                Subject(f"beside {MANY} stopped containers", lambda: start_seconds(many)),
                Subject("beside none", lambda: start_seconds(none)),
            ],
            bench.rounds,
        )
    row = compared("P10", f"start beside {MANY} stopped, {engine}", ours, theirs, ratio(ours, theirs), 1.1)
    low, high = interval(ours, theirs)
    row.note = f"95 % interval of the ratio: {low:.3f} to {high:.3f}"
    return [row]


def start_seconds(daemon: Daemon) -> float:
    """Seconds of a container's start; it is made before, and gone afterwards."""
    container = daemon.create(*IDLE)
    try:
        return daemon.start(container)
    finally:
        daemon.remove(container)


def daemon_memory(bench: Bench) -> list[Row]:
    """P11. Lists have been asked for before, so that what answers leave behind counts."""
    folder = bench.fresh_folder("P11")
    with Daemon(bench.artifacts, folder / "d", "emulated") as daemon:
        daemon.create_many(MANY)
        for container in [daemon.create(*IDLE) for _ in range(RUNNING)]:
            daemon.start(container)

        def after_lists(field: str) -> float:
            with daemon.connect() as connection:
                list_seconds(connection, MANY + RUNNING)
            return processes.rollup_mib(daemon.pid, field)

        title = f"capsidd, {MANY} stopped and {RUNNING} running"
        resident = repeated(title, "MiB", lambda: after_lists("Rss"), bench.rounds)
        proportional = repeated(title, "MiB", lambda: after_lists("Pss"), bench.few)
        peak = processes.peak_mib(daemon.pid)
    row = bounded("P11", f"{title}, resident", resident, MEMORY_BAR_MIB)
    row.note = f"peak: {peak:.1f} MiB"
    return [row, told("P11", f"{title}, PSS", proportional)]


def flooded(bench: Bench, engine: Engine) -> list[Row]:
    """P12."""
    folder = bench.fresh_folder(f"P12-{engine}")
    before = processes.processes_of(bench.artifacts.monitor)
    with Daemon(bench.artifacts, folder / "d", engine) as daemon:
        container = daemon.create("sh", "-c", flood.SCRIPT)
        daemon.start(container)
        monitors = processes.processes_of(bench.artifacts.monitor) - before
        if len(monitors) != 1:
            raise Unavailable(f"{len(monitors)} monitors appeared with the container, not one")
        words = daemon.client("logs", "-f", container)
        survivor = flood.Survivor(words)
        with MonitorMemory(monitors.pop()) as monitor, flood.readers(words, seed=bench.rounds) as crowd:
            took = flood.keep_up(folder, bench.seconds, crowd)
            daemon.send(request_of("POST", f"/containers/{container}/kill?signal=TERM"))
            wait = request_of("POST", f"/containers/{container}/wait")
            status = json.loads(daemon.send(wait))["StatusCode"]
            read_by_then = survivor.checker.received
        damage = survivor.result(READER_LIMIT_SECONDS)
        daemon_peak = processes.peak_mib(daemon.pid)
        logged = flood.Checker()
        log_damage = f"the container ended with {status}" if status else ""
        try:
            flood.check_log(daemon.record_folder(container) / f"{container}-json.log", logged)
        except (flood.Damaged, OSError) as error:
            log_damage = log_damage or str(error)
    title = f"flood, {engine}"
    amount = f"{logged.received / 1e6:.0f} MB"
    daemon_row = bounded("P12", f"{title}: capsidd resident, peak", Series("peak", "MiB", [daemon_peak]), MEMORY_BAR_MIB)
    monitor_row = bounded("P12", f"{title}: capsid-vmm beyond the guest's, peak",
                          Series("peak", "MiB", [max(monitor.samples)]), MONITOR_BAR_MIB)  # fmt: skip
    speed = told("P12", f"{title}: written", Series("flood", "MB/s", [logged.received / took / 1e6]))
    speed.note = (
        f"{took:.0f} s, {crowd.killed} readers killed of {crowd.started}; "
        f"the one that stayed had {read_by_then / max(1, logged.received):.0%} when the container ended"
    )
    return [
        daemon_row,
        monitor_row,
        checked("P12", f"{title}: the log, byte for byte", amount, "all", log_damage),
        checked("P12", f"{title}: what a reader got", f"{survivor.checker.received / 1e6:.0f} MB", "all", damage),
        speed,
    ]


class MonitorMemory:
    """Looks at a monitor's memory, again and again, while the block lasts."""

    def __init__(self, monitor: int) -> None:
        self.path = Path(f"/proc/{monitor}/smaps")
        self.samples: list[float] = []
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> "MonitorMemory":
        self.look()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.enough.set()
        self.thread.join()

    def look(self) -> None:
        mappings = processes.parse_smaps(self.path.read_text())
        # What is mapped is gone when the monitor is about to end.
        if any(processes.is_guest_memory(mapping) for mapping in mappings):
            self.samples.append(processes.resident_beyond_guest_mib(mappings, 0))

    def watch(self) -> None:
        while not self.enough.wait(SAMPLE_SECONDS):
            try:
                self.look()
            except OSError:
                return
