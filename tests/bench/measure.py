"""Running commands against the clock, and what the samples say.

Owns timing and statistics; knows neither capsid nor its peers. Called by the promises.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# How much of a failed command's output is worth reading.
OUTPUT_TAIL_BYTES = 2000
# How often samples are drawn again for an interval.
RESAMPLES = 2000


class Unavailable(Exception):
    """Something cannot be measured here; the text says what is missing."""


@dataclass(frozen=True)
class Command:
    """One thing to run: nothing on its standard input, exit status 0 when all is well."""

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> float:
        """Seconds from start to end.

        Raises Unavailable with the end of the output if the command fails.
        """
        with tempfile.TemporaryFile() as output:
            started = time.monotonic()
            try:
                environment = {**os.environ, **self.environment}
                status = subprocess.call(
                    self.words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
                )
            except OSError as error:
                raise Unavailable(str(error)) from error
            took = time.monotonic() - started
            if status != 0:
                output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT_TAIL_BYTES))
                said = output.read().decode(errors="replace").strip()
                raise Unavailable(f"{Path(self.words[0]).name} ended with {status}: {said}")
        return took


@dataclass(frozen=True)
class Subject:
    """One side of a comparison: what is run, and what is put right before each run, off the clock."""

    name: str
    run: Callable[[], float]
    before: Callable[[], None] = lambda: None


@dataclass
class Series:
    """All samples of one subject, in the order in which they were taken."""

    name: str
    unit: str
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def deviation(self) -> float:
        """Median of the distances to the median: unlike the standard one, not led by a single slow run."""
        return statistics.median(abs(sample - self.median) for sample in self.samples)


def interleaved(subjects: Sequence[Subject], rounds: int, unit: str = "s") -> list[Series]:
    """Run the subjects in turn, `rounds` times after one round that is not counted.

    Taking turns shares out whatever else the machine does; each round starts with another subject so that none
    always follows the same one.
    """
    series = [Series(subject.name, unit) for subject in subjects]
    for index in range(rounds + 1):
        for place in range(len(subjects)):
            which = (index + place) % len(subjects)
            subjects[which].before()
            sample = subjects[which].run()
            if index > 0:
                series[which].samples.append(sample)
        progress(f"{index}/{rounds}")
    return series


@dataclass(frozen=True)
class Ratio:
    """How two series that were taken in turns compare."""

    median: float
    least: float
    most: float


def ratio(ours: Series, theirs: Series) -> Ratio:
    """Our median over theirs; the spread is that of the rounds' own ratios."""
    rounds = [our / their for our, their in zip(ours.samples, theirs.samples, strict=True)]
    return Ratio(ours.median / theirs.median, min(rounds), max(rounds))


def interval(ours: Series, theirs: Series) -> tuple[float, float]:
    """Where the ratio of medians lies with a confidence of 95 %: the percentile bootstrap over whole rounds."""
    dice = random.Random(0)
    rounds = range(len(ours.samples))
    ratios = []
    for _ in range(RESAMPLES):
        drawn = dice.choices(rounds, k=len(rounds))
        ratios.append(
            statistics.median(ours.samples[each] for each in drawn)
            / statistics.median(theirs.samples[each] for each in drawn)
        )
    ratios.sort()
    return ratios[RESAMPLES // 40], ratios[-1 - RESAMPLES // 40]


def progress(text: str) -> None:
    """A sign of life that leaves no trace in a log."""
    if sys.stderr.isatty():
        print(f"\r  {text}    ", end="", file=sys.stderr, flush=True)
