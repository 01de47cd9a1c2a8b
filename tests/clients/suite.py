"""What the suites of others have in common: lists of cases with a reason each, and the verdict over their outcomes.

A list is a text file: one case a line, its name, two or more blanks, and the reason; `#` begins a comment.
  excluded.txt        cases that need what is not there yet, or that fail wherever they run: not run, not counted
  known-failures.txt  cases that count, and fail; the reason says why
A suite passes when at least PASS_SHARE of its counted cases do, and none fails that is not a known failure.
"""

import sys
from pathlib import Path

PASS_SHARE = 0.95


class ListError(Exception):
    """A list that does not fit the suite."""


def read_list(path: Path) -> dict[str, str]:
    """Case → reason. A case without a reason is an error."""
    cases = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        case, _, reason = line.partition("  ")
        if not reason.strip():
            raise ListError(f"{path}:{number}: {case} has no reason")
        if case in cases:
            raise ListError(f"{path}:{number}: {case} is there twice")
        cases[case] = reason.strip()
    return cases


class Suite:
    """The lists of one suite, and which of its cases count."""

    def __init__(self, folder: Path):
        self.name = folder.name
        self.excluded = read_list(folder / "excluded.txt")
        self.known_failures = read_list(folder / "known-failures.txt")

    def select(self, cases: list[str], whole: bool = True) -> list[str]:
        """Those of all `cases` that are to run. `whole` says that they are all that the suite has."""
        both = self.excluded.keys() & self.known_failures.keys()
        unknown = (self.excluded.keys() | self.known_failures.keys()) - set(cases) if whole else set()
        if both or unknown:
            raise ListError(f"{self.name}: listed twice, or not there at all: {', '.join(sorted(both | unknown))}")
        return [case for case in cases if case not in self.excluded]

    def judge(self, cases: list[str], passed: set[str]) -> int:
        """Print the count over all `cases`, and what is unexpected; return the exit status."""
        counted = self.select(cases, whole=False)
        failed = [case for case in counted if case not in passed]
        surprises = [case for case in failed if case not in self.known_failures]
        for case in failed:
            print(f"{self.name}: {case} failed: {self.known_failures.get(case, 'NOT A KNOWN FAILURE')}")
        for case in counted:
            if case in passed and case in self.known_failures:
                print(f"{self.name}: {case} passes: take it out of known-failures.txt")
        share = (len(counted) - len(failed)) / max(len(counted), 1)
        print(f"{self.name}: {len(counted) - len(failed)} passed; {len(failed)} failed; "
              f"{len(cases) - len(counted)} excluded; {share:.1%} of those that count (at least {PASS_SHARE:.0%})",
              flush=True)
        if surprises:
            print(f"{self.name}: {len(surprises)} unexpected failures", file=sys.stderr)
        return 1 if surprises or share < PASS_SHARE or not counted else 0


def shares(cases: list[str], number: int) -> list[list[str]]:
    """`cases` dealt out like cards, so that neighbours, which take alike, run beside each other."""
    return [hand for hand in (cases[first::number] for first in range(number)) if hand]
