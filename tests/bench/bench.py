#!/usr/bin/env python3
"""Measure what capsid promises (PROMISES.md): a table on stdout, JSON with all samples in target/bench.

    bench.py [--rounds N] [--seconds N] [--only P1,P4...]

What needs KVM runs in the emulated host (tests/kvm-host) unless this machine's processor offers it. Exit status: 0,
all promises are measured and met; 1, one is missed; 2, one could not be measured. Called by `make bench`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import machine
import processes
import report
from measure import Unavailable
from promises import ALL
from session import Bench, Measurement
from subjects import ROOT, Artifacts, Microsandbox

RESULTS = ROOT / "target/bench"
KVM_HOST = ROOT / "tests/kvm-host/kvm-host"
KVM_HOST_MEMORY_MIB = 8192
KVM_HOST_LIMIT_SECONDS = 3600


def main() -> int:
    arguments = parse_arguments()
    artifacts = Artifacts()
    try:
        artifacts.check()
    except Unavailable as reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 2
    chosen = [each for each in ALL if not arguments.only or each.promise in arguments.only]
    if arguments.part:
        rows = measured_here([each for each in chosen if each.place == "kvm"], artifacts, arguments)
        arguments.part.write_text(json.dumps(report.to_json(rows)))
        return 0
    return whole(chosen, artifacts, arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what capsid promises (tests/bench/PROMISES.md).")
    parser.add_argument("--rounds", type=int, default=12, metavar="N", help="samples of each comparison (12)")
    parser.add_argument("--only", type=lambda text: set(text.split(",")), default=set(), metavar="P1,P4",
                        help="only these promises")
    parser.add_argument("--seconds", type=float, default=60, metavar="N", help="how long P12's container prints (60)")
    # How this program calls itself inside the emulated host: the KVM measurements, their rows into a file.
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = arguments.only - {each.promise for each in ALL}
    if unknown or arguments.rounds < 1:
        parser.error(f"there is no {', '.join(sorted(unknown))}" if unknown else "at least one round")
    return arguments


def whole(chosen: list[Measurement], artifacts: Artifacts, arguments: argparse.Namespace) -> int:
    description = machine.describe(artifacts)
    started = time.time()
    elsewhere = [] if machine.has_hardware_kvm() else [each for each in chosen if each.place == "kvm"]
    local = [each for each in chosen if each not in elsewhere]
    rows = measured_here(local, artifacts, arguments)
    if elsewhere:
        rows += measured_in_kvm_host(elsewhere, arguments)
    rows.sort(key=lambda row: int(row.promise[1:]))
    print(report.table(rows))
    save({**description, "started": started, "seconds": time.time() - started, "rounds": arguments.rounds,
          "rows": report.to_json(rows)})
    return report.exit_status(rows)


def measured_here(
    chosen: Iterable[Measurement], artifacts: Artifacts, arguments: argparse.Namespace
) -> list[report.Row]:
    rows: list[report.Row] = []
    with tempfile.TemporaryDirectory(prefix="cb.", dir="/tmp") as folder:
        bench = Bench(artifacts, Path(folder), arguments.rounds, arguments.seconds)
        try:
            for each in chosen:
                print(f"bench: {each.promise}, {each.title}", file=sys.stderr, flush=True)
                rows += each.rows(bench)
        finally:
            processes.end_daemons_below(artifacts.daemon, Path(folder))
    return rows


def measured_in_kvm_host(chosen: list[Measurement], arguments: argparse.Namespace) -> list[report.Row]:
    """One boot of the emulated host for all of them: between boots figures differ by a few per cent."""
    if any(each.promise in ("P3", "P8") for each in chosen):
        try:
            Microsandbox.fetch()  # into this machine's cache; the emulated host would forget it
        except Unavailable as reason:
            print(f"bench: {reason}", file=sys.stderr)  # and their rows will say so
    RESULTS.mkdir(parents=True, exist_ok=True)
    part = RESULTS / "kvm-part.json"
    part.unlink(missing_ok=True)
    only = ",".join(sorted({each.promise for each in chosen}))
    host = [str(KVM_HOST), "-m", str(KVM_HOST_MEMORY_MIB), "-t", str(KVM_HOST_LIMIT_SECONDS), "-w", str(RESULTS)]
    here = [sys.executable, "-B", str(Path(__file__).resolve())]
    same = ["--rounds", str(arguments.rounds), "--seconds", str(arguments.seconds)]
    status = subprocess.call([*host, "--", *here, "--part", str(part), *same, "--only", only])
    if status != 0 or not part.exists():
        ending = f"the emulated host ended with {status}"
        return [report.unavailable(each.promise, each.title, ending) for each in chosen]
    rows = report.from_json(json.loads(part.read_text()))
    part.unlink()
    return rows


def save(result: dict[str, Any]) -> None:
    """The newest result under a fixed name, and each under its own."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(result["started"]))
    own = RESULTS / f"{stamp}-{result['commit'][:12]}.json"
    own.write_text(json.dumps(result, indent=1) + "\n")
    latest = RESULTS / "latest.json"
    latest.unlink(missing_ok=True)
    latest.symlink_to(own.name)
    print(f"\nall samples: {own.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.exit(main())
