"""Tests of the harness itself: transcripts, lists, the verdict. Run by `make unit`; needs no daemon."""

import contextlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "docker-cli")]
import normal
import suite
import transcript


def written(text: str) -> Path:
    file = tempfile.NamedTemporaryFile("w", delete=False)
    with file:
        file.write(text)
    return Path(file.name)


class Transcripts(unittest.TestCase):
    def test_each_is_written_as_it_was_read(self):
        files = list((HERE / "docker-cli/cases").glob("*.console"))
        self.assertTrue(files)
        for path in files:
            self.assertEqual(transcript.read(path).text(), path.read_text(), path)

    def test_both_answers_are_told_apart(self):
        path = written("## a\n$ one\nours\n[1]\n~ because\n~ theirs\n~ [2]\n$ two\nsame\n")
        first, second = transcript.read(path).cases[0].steps
        self.assertEqual((first.expected(False), first.expected(True)), (["ours", "[1]"], ["theirs", "[2]"]))
        self.assertEqual((second.expected(False), second.expected(True)), (["same"], ["same"]))

    def test_lines_that_look_like_marks_are_escaped(self):
        self.assertEqual(transcript.answer("[1]\n\n$ x\nplain\n", "bad\n", 3),
                         ["\\[1]", "\\", "\\$ x", "plain", "! bad", "[3]"])

    def test_an_answer_without_a_command_is_an_error(self):
        with self.assertRaises(transcript.TranscriptError):
            transcript.read(written("## a\nanswer\n"))


class Normal(unittest.TestCase):
    def test_what_differs_becomes_a_word(self):
        text = f"{'a' * 64} {'b' * 12} 3 minutes ago 1.98MB 2025-01-02T03:04:05.678Z 12.50%  far   apart  \n"
        self.assertEqual(normal.normal(text, {}), "{id} {short-id} {age} ago {size} {time} {percent}  far  apart\n")

    def test_what_does_not_differ_stays(self):
        text = "Exited (137) root 100000 sha256 deadbeef 64 B52 3.10\n"
        self.assertEqual(normal.normal(text, {}), text)


class Verdict(unittest.TestCase):
    def with_lists(self, excluded: str, known: str) -> suite.Suite:
        folder = Path(tempfile.mkdtemp())
        (folder / "excluded.txt").write_text(excluded)
        (folder / "known-failures.txt").write_text(known)
        return suite.Suite(folder)

    def judge(self, this: suite.Suite, cases: list[str], passed: set[str]) -> tuple[int, str]:
        with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()):
            return this.judge(cases, passed), output.getvalue()

    def test_a_case_without_a_reason_is_an_error(self):
        with self.assertRaises(suite.ListError):
            self.with_lists("a case\n", "")

    def test_known_failures_are_borne_up_to_the_share(self):
        cases = [str(number) for number in range(100)]
        few, many = ("".join(f"{number}  reason\n" for number in range(count)) for count in (5, 6))
        self.assertEqual(self.judge(self.with_lists("", few), cases, set(cases[5:]))[0], 0)
        self.assertEqual(self.judge(self.with_lists("", many), cases, set(cases[6:]))[0], 1)

    def test_one_unexpected_failure_is_too_many(self):
        cases = [str(number) for number in range(100)]
        status, output = self.judge(self.with_lists("99  reason\n", ""), cases, set(cases[1:99]))
        self.assertEqual(status, 1)
        self.assertIn("98 passed; 1 failed; 1 excluded", output)

    def test_a_list_that_names_no_case_is_an_error(self):
        with self.assertRaises(suite.ListError):
            self.with_lists("old name  reason\n", "").select(["new name"])


if __name__ == "__main__":
    unittest.main()
