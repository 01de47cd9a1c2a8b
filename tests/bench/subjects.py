"""The programs that are measured: capsid and what it is held against.

Each is prepared once, off the clock; preparing says in `Unavailable` why something cannot be had.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import processes
from measure import Command, Unavailable

ROOT = Path(__file__).resolve().parent.parent.parent
# What `capsid run` gives a machine unless told otherwise.
DEFAULT_MEMORY_MIB = 512
Engine = Literal["emulated", "kvm"]


@dataclass(frozen=True)
class Artifacts:
    """Where everything is."""

    capsid: Path = ROOT / "target/release/capsid"
    daemon: Path = ROOT / "target/release/capsidd"
    monitor: Path = ROOT / "target/release/capsid-vmm"
    kernel: Path = ROOT / "target/guest/vmlinux"
    busybox: Path = ROOT / "images/out/busybox.tar"
    debian: Path = ROOT / "images/out/debian.tar"

    def check(self) -> None:
        files = (self.capsid, self.daemon, self.monitor, self.kernel, self.busybox, self.debian)
        missing = [str(path.relative_to(ROOT)) for path in files if not path.exists()]
        if missing:
            raise Unavailable(f"missing: {', '.join(missing)}; run make build")


class Capsid:
    """capsid with a state folder of its own, in which the busybox image is loaded."""

    def __init__(self, artifacts: Artifacts, folder: Path) -> None:
        self.artifacts = artifacts
        self.state = folder / "capsid-state"
        Command((*self.words(), "load", "-i", str(artifacts.busybox))).run()

    def words(self) -> tuple[str, ...]:
        return (str(self.artifacts.capsid), "--state-dir", str(self.state))

    def wake(self) -> None:
        """Makes sure that the daemon runs: one that had nothing to do for a minute has ended."""
        Command((*self.words(), "version")).run()

    def put_to_sleep(self) -> None:
        """Makes sure that it does not run."""
        processes.end_daemon(self.artifacts.daemon, self.state)

    def run(self, engine: Engine, *arguments: str, options: tuple[str, ...] = ()) -> Command:
        """`capsid run --rm busybox ARGUMENTS`."""
        return Command((*self.words(), "run", "--rm", "--engine", engine, *options, "busybox", *arguments))


class BareQemu:
    """QEMU's microvm machine that boots the guest kernel to an init which restarts it."""

    MACHINE = "microvm,x-option-roms=off,isa-serial=on,acpi=off"

    def __init__(self, artifacts: Artifacts, folder: Path) -> None:
        self.kernel = artifacts.kernel
        self.serial = folder / "serial"
        self.initramfs = reboot_initramfs(folder)

    def boot(self, accelerator: tuple[str, ...], command_line: str) -> Command:
        return Command((
            "qemu-system-x86_64", "-M", self.MACHINE, *accelerator, "-m", str(DEFAULT_MEMORY_MIB), "-smp", "1",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{self.serial}",
            "-kernel", str(self.kernel), "-initrd", str(self.initramfs),
            "-append", f"reboot=t panic=-1 {command_line}",
        ))  # fmt: skip

    def tcg(self, command_line: str) -> Command:
        return self.boot(("-accel", "tcg", "-cpu", "max"), command_line)

    def kvm(self, command_line: str) -> Command:
        return self.boot(("-accel", "kvm", "-cpu", "host"), command_line)

    def check(self, boot: Callable[[str], Command]) -> None:
        """Does the machine get as far as its init? A kernel that panics restarts it, too."""
        boot("").run()
        text = self.serial.read_text(errors="replace")
        if "Run /init" not in text or "Kernel panic" in text:
            raise Unavailable("bare QEMU does not reach its init:\n" + "\n".join(text.splitlines()[-8:]))


def reboot_initramfs(folder: Path) -> Path:
    stage = folder / "reboot-initramfs"
    stage.mkdir()
    source = Path(__file__).resolve().parent / "reboot_init.c"
    flags = ("-O2", "-static", "-nostdlib", "-fno-stack-protector", "-s")
    Command(("gcc", *flags, "-o", str(stage / "init"), str(source))).run()
    archive = folder / "reboot.cpio"
    with archive.open("wb") as out:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=b"init", stdout=out, cwd=stage, check=True)
    return archive


class Microsandbox:
    """microsandbox with a home of its own, in which the busybox image is loaded."""

    VERSION = "0.7.11"
    SHA256 = "65f1e4bbf8d721c9f7f557329fb6c8cf41f554c1c6942eac8b941198fa283fe0"

    def __init__(self, artifacts: Artifacts, folder: Path) -> None:
        self.program = self.fetch() / "microsandbox/_bundled/bin/msb"
        # The paths of its sockets are long, and a socket's path is short: its home is as near to the root as may be.
        home = folder / "m"
        home.mkdir()
        self.environment = {"HOME": str(home), "MSB_HOME": str(home)}
        self.command("load", "--quiet", "-i", str(artifacts.busybox), "-t", "busybox").run()

    @classmethod
    def fetch(cls) -> Path:
        """The unpacked wheel; the emulated host finds the one that this machine fetched."""
        command = [str(ROOT / "tests/wheel"), "microsandbox", cls.VERSION, cls.SHA256]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unavailable(f"microsandbox {cls.VERSION} cannot be fetched: {done.stderr.strip()}")
        return Path(done.stdout.strip())

    def command(self, *arguments: str) -> Command:
        return Command((str(self.program), *arguments), self.environment)

    def run(self, *arguments: str) -> Command:
        return self.command("run", "--quiet", "--no-tty", "--no-stdin", "--pull", "never", "busybox", "--", *arguments)

    @contextlib.contextmanager
    def idle(self, name: str) -> Iterator[None]:
        """A sandbox that runs while the block lasts."""
        self.command("create", "--quiet", "--pull", "never", "--name", name, "busybox").run()
        try:
            yield
        finally:
            with contextlib.suppress(Unavailable):
                self.command("remove", "--quiet", "--force", name).run()

    def execute(self, name: str, *arguments: str) -> Command:
        """`msb exec`, in a sandbox that runs."""
        return self.command("exec", "--quiet", "--no-tty", "--no-stdin", name, "--", *arguments)


class SkopeoUmoci:
    """The usual way from an archive to a root file system: copy into an OCI layout, unpack."""

    def __init__(self, archive: Path, folder: Path) -> None:
        for tool in ("skopeo", "umoci"):
            if not shutil.which(tool):
                raise Unavailable(f"{tool} is not installed")
        self.archive = archive
        self.folder = folder / "skopeo-umoci"

    def before(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        os.sync()

    def load(self) -> Command:
        layout = self.folder / "layout"
        rootless = "" if os.geteuid() == 0 else "--rootless"
        script = (
            'skopeo --insecure-policy copy --quiet "oci-archive:$0" "oci:$1:image" && '
            f'umoci unpack {rootless} --image "$1:image" "$2"'
        )
        return Command(("sh", "-ec", script, str(self.archive), str(layout), str(self.folder / "bundle")))

