"""One bash for one case: runs its commands in order, and says what each printed and how it ended.

Its folder is empty at first and gone afterwards; its environment names the server under test and nothing of the user's
Docker. Called by `run`.
"""

import os
import shlex
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

# An emulated machine takes seconds to boot on a busy host.
COMMAND_SECONDS = 90
# Wide enough that no client breaks a line, and no colours.
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "COLUMNS": "400", "NO_COLOR": "1", "DOCKER_CLI_HINTS": "false"}


class Session:
    """Use it in a `with`: what it started in the background ends with it."""

    def __init__(self, address: str):
        self.folder = tempfile.TemporaryDirectory(prefix="capsid-case.")
        root = Path(self.folder.name)
        self.work = root / "work"
        self.work.mkdir()
        self.stdout, self.stderr = root / "stdout", root / "stderr"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        programs = Path(__file__).resolve().parent / "bin"
        environment |= ENVIRONMENT | {"DOCKER_HOST": address, "DOCKER_CONFIG": str(root / "config"),
                                      "PATH": f"{programs}:{os.environ['PATH']}"}
        self.bash = subprocess.Popen(["bash", "--norc"], cwd=self.work, env=environment, stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                     start_new_session=True)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        self.kill()
        self.bash.communicate()
        self.folder.cleanup()

    def kill(self) -> None:
        try:
            os.killpg(self.bash.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def run(self, script: str) -> tuple[str, str, int | None]:
        """Stdout, stderr and exit status; no status if it took too long, and then the session is over."""
        watchdog = threading.Timer(COMMAND_SECONDS, self.kill)
        watchdog.start()
        try:
            # In braces, not in a shell of its own, so that variables last.
            self.bash.stdin.write(f"{{ {script}\n}} >{shlex.quote(str(self.stdout))} 2>{shlex.quote(str(self.stderr))} "
                                  f"</dev/null; echo $?\n")
            self.bash.stdin.flush()
            status = self.bash.stdout.readline().strip()
        except BrokenPipeError:
            status = ""
        finally:
            watchdog.cancel()
        return read(self.stdout), read(self.stderr), int(status) if status.isdigit() else None


def read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
