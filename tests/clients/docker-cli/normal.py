"""What of an answer differs from run to run, and a word for each of it.

Called by `run` on everything that is compared. Nothing else may be forgiven here: a rule that is too broad hides faults.
"""

import re

SECONDS = r"(?:Less than a|About an?|\d+) (?:second|minute|hour|day|week|month|year)s?"
SIZE = r"\b\d+(?:\.\d+)?(?:e\+\d+)?\s?(?:B|kB|MB|GB|TB|KiB|MiB|GiB)(?![A-Za-z0-9])"
RULES = [(re.compile(pattern), word) for pattern, word in [
    (r"\x1b\[[0-9;?]*[A-Za-z]", ""),  # colours and cursor movements
    (r"BusyBox v\S+ \([^)]*\)", "BusyBox {version}"),
    (r"\b[0-9a-f]{64}\b", "{id}"),
    (r"\b[0-9a-f]{12}\b", "{short-id}"),
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", "{time}"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? [+-]\d{4} [A-Z]+\b", "{time}"),
    (SECONDS, "{age}"),
    (SIZE, "{size}"),
    (r"\b\d+\.\d+%", "{percent}"),
    (r"(?m) {2,}", "  "),  # the width of a table's columns
    (r"(?m)[ \t\r]+$", ""),
]]


def normal(text: str, words: dict[str, str]) -> str:
    """`text` with everything that differs replaced; `words` are those of this run: text → word."""
    for found, word in words.items():
        text = text.replace(found, word)
    for pattern, word in RULES:
        text = pattern.sub(word, text)
    return text
