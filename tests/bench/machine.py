"""What was measured, and on what: written beside every result so that two results can be told apart."""

import hashlib
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from subjects import ROOT, Artifacts


def describe(artifacts: Artifacts) -> dict[str, Any]:
    """The machine, the programs and the commit."""
    return {
        "machine": {
            "processor": field_of("/proc/cpuinfo", "model name"),
            "processors": os.cpu_count(),
            "memory": field_of("/proc/meminfo", "MemTotal"),
            "kernel": platform.release(),
            "load": os.getloadavg(),
        },
        "commit": output_of("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "changed": bool(output_of("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")),
        "guest_kernel": {"sha256": sha256(artifacts.kernel), "bytes": artifacts.kernel.stat().st_size},
        "versions": {
            "qemu": output_of("qemu-system-x86_64", "--version"),
            "skopeo": output_of("skopeo", "--version"),
            "umoci": output_of("umoci", "--version"),
        },
    }


def has_hardware_kvm() -> bool:
    """Can machines run on this processor itself?"""
    flags = field_of("/proc/cpuinfo", "flags").split()
    return bool({"vmx", "svm"} & set(flags)) and os.access("/dev/kvm", os.R_OK | os.W_OK)


def field_of(path: str, name: str) -> str:
    match = re.search(rf"^{name}\s*: *(.*)$", Path(path).read_text(), re.MULTILINE)
    return match[1] if match else ""


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip().partition("\n")[0]
    except OSError:
        return ""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
