"""Transcripts: files that hold commands and what they answer, as a terminal would have shown it.

    # A comment.
    ## title of a case
    $ command            each case has a bash and a folder of its own, so variables and files last until its end
    > more of it
    what it prints
    ! what it prints to stderr
    [7]                  its exit status, unless it is 0
    ~ why capsid answers otherwise, in one line
    ~ what dockerd answers, in the same form

The answer without `~` is capsid's; where there are no lines with `~`, dockerd's is the same. Empty lines mean nothing;
an empty line of output, and a line that looks like one of the above, is written with a backslash before it.
Knows nothing of running commands. Called by `run`.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

MARKS = ("#", "$ ", "> ", "! ", "[", "~", "\\")


class TranscriptError(Exception):
    """A file that is no transcript."""


@dataclass
class Step:
    """One command and its answers, as lines of a transcript."""

    line: int
    command: list[str]
    answer: list[str] = field(default_factory=list)
    reason: str = ""
    # Only where there is a reason for it to differ.
    dockerd: list[str] = field(default_factory=list)

    def script(self) -> str:
        return "\n".join(self.command)

    def expected(self, of_dockerd: bool) -> list[str]:
        return self.dockerd if of_dockerd and self.reason else self.answer

    def record(self, answer: list[str], of_dockerd: bool) -> None:
        if of_dockerd and self.reason:
            self.dockerd = answer
        else:
            self.answer = answer

    def lines(self) -> list[str]:
        first, *more = self.command
        both = [f"$ {first}", *(f"> {line}".rstrip() for line in more), *self.answer]
        if self.reason:
            both += [f"~ {self.reason}", *(f"~ {line}" for line in self.dockerd)]
        return both


@dataclass
class Case:
    title: str
    line: int
    comments: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


@dataclass
class Transcript:
    path: Path
    comments: list[str]
    cases: list[Case]

    def text(self) -> str:
        parts = ["\n".join(self.comments)] if self.comments else []
        for case in self.cases:
            lines = [f"## {case.title}", *case.comments]
            for step in case.steps:
                lines += step.lines()
            parts.append("\n".join(lines))
        return "\n\n".join(parts) + "\n"


def read(path: Path) -> Transcript:
    transcript = Transcript(path, [], [])
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line:
            read_line(transcript, number, line)
    return transcript


def read_line(transcript: Transcript, number: int, line: str) -> None:
    case = transcript.cases[-1] if transcript.cases else None
    step = case.steps[-1] if case and case.steps else None
    if line.startswith("## "):
        transcript.cases.append(Case(line.removeprefix("## "), number))
    elif line.startswith("#"):
        if step:
            raise TranscriptError(f"{transcript.path}:{number}: comments stand before the first command")
        (case.comments if case else transcript.comments).append(line)
    elif line.startswith("$ ") and case:
        case.steps.append(Step(number, [line.removeprefix("$ ")]))
    elif not step:
        raise TranscriptError(f"{transcript.path}:{number}: an answer without a command")
    elif re.match(r">( |$)", line):
        step.command.append(line[2:])
    elif not line.startswith("~ "):
        step.answer.append(line)
    elif not step.reason:
        step.reason = line.removeprefix("~ ")
    else:
        step.dockerd.append(line.removeprefix("~ "))


def answer(stdout: str, stderr: str, status: int) -> list[str]:
    """What a command did, as lines of a transcript."""
    lines = [f"\\{line}" if not line or line.startswith(MARKS) else line for line in stdout.splitlines()]
    lines += [f"! {line}".rstrip() for line in stderr.splitlines()]
    return lines + ([f"[{status}]"] if status else [])
