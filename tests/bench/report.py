"""What a measurement says about a promise: rows, their table, their JSON.

Owns the form of results, which also travels as JSON out of the emulated host.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from measure import Ratio, Series

NAME_WIDTH = 58


class Verdict(StrEnum):
    """How a promise fared."""

    MET = "met"
    MISSED = "missed"
    UNAVAILABLE = "unavailable"
    # Measured for the reader; nothing was promised.
    TOLD = "told"


@dataclass
class Row:
    """One line of the table: a figure, its bar and what it was made of."""

    promise: str
    title: str
    verdict: Verdict
    figure: str = ""
    bar: str = ""
    value: float | None = None
    reason: str = ""
    note: str = ""
    series: list[Series] = field(default_factory=list)


def compared(promise: str, title: str, ours: Series, theirs: Series, ratio: Ratio, bar: float | None) -> Row:
    """A row that holds ours against theirs; without a bar it only tells."""
    if bar is None:
        verdict = Verdict.TOLD
    else:
        verdict = Verdict.MET if ratio.median <= bar else Verdict.MISSED
    return Row(
        promise, title, verdict, f"{ratio.median:.2f} ({ratio.least:.2f}–{ratio.most:.2f})",
        f"≤ {bar:g}" if bar is not None else "", ratio.median, series=[ours, theirs],
    )  # fmt: skip


def bounded(promise: str, title: str, series: Series, bar: float) -> Row:
    """A row that holds a median against an upper bound in the series' own unit."""
    verdict = Verdict.MET if series.median <= bar else Verdict.MISSED
    return Row(promise, title, verdict, figure_of(series), f"≤ {bar:g} {series.unit}", series.median, series=[series])


def told(promise: str, title: str, series: Series) -> Row:
    """A row that only tells."""
    return Row(promise, title, Verdict.TOLD, figure_of(series), value=series.median, series=[series])


def checked(promise: str, title: str, figure: str, bar: str, damage: str) -> Row:
    """A row of something that is right or wrong; `damage` says what is wrong."""
    verdict = Verdict.MISSED if damage else Verdict.MET
    return Row(promise, title, verdict, figure, bar, reason=damage)


def unavailable(promise: str, title: str, reason: str) -> Row:
    return Row(promise, title, Verdict.UNAVAILABLE, reason=reason)


def figure_of(series: Series) -> str:
    return f"{significant(series.median)} ± {significant(series.deviation)} {series.unit}"


def significant(value: float) -> str:
    """Three digits, for people."""
    if value == 0:
        return "0"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """The rows for a terminal, each comparison with the two medians below it."""
    lines = [f"{'':3} {'':{NAME_WIDTH}} {'median':>22}  {'bar':<10}"]
    for row in rows:
        lines.append(f"{row.promise:3} {row.title:{NAME_WIDTH}} {row.figure:>22}  {row.bar:<10} {row.verdict}".rstrip())
        lines += [f"{'':6}{line}" for line in (*row.reason.splitlines()[-8:], *row.note.splitlines())]
        if len(row.series) > 1:
            lines += [f"{'':6}{each.name:{NAME_WIDTH - 2}} {figure_of(each):>22}" for each in row.series]
    return "\n".join(lines)


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as plain data, with every raw sample."""
    return [asdict(row) for row in rows]


def from_json(data: Sequence[dict[str, Any]]) -> list[Row]:
    """The inverse of `to_json`."""
    return [
        Row(**{**each, "verdict": Verdict(each["verdict"]), "series": [Series(**one) for one in each["series"]]})
        for each in data
    ]


def exit_status(rows: Sequence[Row]) -> int:
    """0: every promise was measured and met; 1: one was missed; 2: one could not be measured."""
    verdicts = {row.verdict for row in rows}
    if Verdict.MISSED in verdicts:
        return 1
    return 2 if Verdict.UNAVAILABLE in verdicts else 0
