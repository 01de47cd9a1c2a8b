"""What every measurement is given, and how it is told from the others."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from measure import Series, Unavailable, progress
from report import Row, unavailable
from subjects import Artifacts

# Where a promise is measured: on this machine, or where /dev/kvm works.
Place = Literal["here", "kvm"]


@dataclass(frozen=True)
class Bench:
    """What every measurement is given."""

    artifacts: Artifacts
    folder: Path
    rounds: int
    # How long something is kept up that goes on until it is stopped.
    seconds: float = 60

    @property
    def few(self) -> int:
        """Rounds of what takes long or hardly varies."""
        return max(3, self.rounds // 4) if self.rounds >= 3 else 1

    def fresh_folder(self, name: str) -> Path:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


@dataclass(frozen=True)
class Measurement:
    """A function that measures, with the place where it is run."""

    promise: str
    place: Place
    title: str
    measure: Callable[[Bench], list[Row]]

    def rows(self, bench: Bench) -> list[Row]:
        """Its rows; one that says why, if it cannot be measured."""
        try:
            return self.measure(bench)
        except Unavailable as reason:
            return [unavailable(self.promise, self.title, str(reason))]


def repeated(name: str, unit: str, measure: Callable[[], float], rounds: int) -> Series:
    """A series of one thing alone."""
    series = Series(name, unit)
    for index in range(rounds):
        series.samples.append(measure())
        progress(f"{index + 1}/{rounds}")
    return series
