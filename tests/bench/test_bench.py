"""Tests of the benchmark's own arithmetic and parsing; nothing is timed here."""

import unittest
import unittest.mock

import processes
import report
import streams
from measure import Command, Series, Subject, Unavailable, interleaved, ratio


class Measuring(unittest.TestCase):
    def test_subjects_take_turns_and_the_first_round_is_dropped(self) -> None:
        order: list[str] = []

        def subject(name: str) -> Subject:
            def run() -> float:
                order.append(name)
                return len(order)

            return Subject(name, run)

        series = interleaved([subject("a"), subject("b")], rounds=2)
        self.assertEqual(order, ["a", "b", "b", "a", "a", "b"])
        self.assertEqual([each.samples for each in series], [[4, 5], [3, 6]])

    def test_ratio_is_of_medians_with_the_spread_of_rounds(self) -> None:
        found = ratio(Series("ours", "s", [1.0, 2.0, 9.0]), Series("theirs", "s", [2.0, 4.0, 6.0]))
        self.assertEqual((found.median, found.least, found.most), (0.5, 0.5, 1.5))

    def test_deviation_ignores_one_slow_run(self) -> None:
        self.assertAlmostEqual(Series("a", "s", [1.0, 1.1, 0.9, 50.0, 1.0]).deviation, 0.1)

    def test_failed_command_says_what_it_printed(self) -> None:
        with self.assertRaisesRegex(Unavailable, "sh ended with 3: because"):
            Command(("sh", "-c", "echo because; exit 3")).run()
        with self.assertRaisesRegex(Unavailable, "No such file"):
            Command(("/nonexistent",)).run()


class Reporting(unittest.TestCase):
    ours, theirs = Series("ours", "s", [1.0, 1.0]), Series("theirs", "s", [2.0, 2.0])

    def row(self, bar: float) -> report.Row:
        return report.compared("P0", "title", self.ours, self.theirs, ratio(self.ours, self.theirs), bar)

    def test_verdict_follows_the_bar(self) -> None:
        self.assertEqual(self.row(0.5).verdict, report.Verdict.MET)
        self.assertEqual(self.row(0.4).verdict, report.Verdict.MISSED)

    def test_exit_status_tells_missed_from_unmeasured(self) -> None:
        gone = report.unavailable("P0", "title", "no such peer")
        self.assertEqual(report.exit_status([self.row(0.5)]), 0)
        self.assertEqual(report.exit_status([self.row(0.5), gone]), 2)
        self.assertEqual(report.exit_status([self.row(0.4), gone]), 1)
        self.assertIn("no such peer", report.table([gone]))

    def test_rows_survive_json(self) -> None:
        self.assertEqual(report.from_json(report.to_json([self.row(0.5)])), [self.row(0.5)])


class Memory(unittest.TestCase):
    SMAPS = """\
5581e0000000-5581e0200000 r-xp 00001000 fe:00 1234                       /usr/bin/a monitor
Size:               2048 kB
KernelPageSize:        4 kB
Rss:                1024 kB
Pss:                 512 kB
7f0000000000-7f0010000000 rw-s 00000000 00:01 77                         /memfd:guest (deleted)
Size:             262144 kB
Rss:               30000 kB
7f0020000000-7f0024000000 ---p 00000000 00:00 0
Size:              65536 kB
Rss:                   0 kB
"""

    def test_guest_memory_is_told_from_the_monitors_own(self) -> None:
        mappings = processes.parse_smaps(self.SMAPS)
        self.assertEqual([mapping.size_kib for mapping in mappings], [2048, 262144, 65536])
        self.assertEqual(mappings[0].path, "/usr/bin/a monitor")
        self.assertEqual(processes.resident_beyond_guest_mib(mappings, 256), 1.0)

    def test_unknown_guest_memory_is_no_result(self) -> None:
        with self.assertRaises(Unavailable):
            processes.resident_beyond_guest_mib(processes.parse_smaps(self.SMAPS), 512)


@unittest.mock.patch.object(streams, "STREAM_MIB", 8)
class Streams(unittest.TestCase):
    def test_every_piece_differs(self) -> None:
        self.assertEqual(len(set(streams.pattern(16))), 16)

    def test_intact_streams_are_accepted(self) -> None:
        size = streams.STREAM_MIB * streams.MIB
        streams.out_of_container(Command(("sh", "-c", f"echo ready; exec head -c {size} /dev/zero")))
        streams.into_container(Command(("sh", "-c", "echo ready; exec sha256sum")))

    def test_damage_is_found(self) -> None:
        size = streams.STREAM_MIB * streams.MIB
        for script in (f"head -c {size - 1} /dev/zero", "head -c 10 /dev/urandom", "exit 3"):
            with self.assertRaises(Unavailable):
                streams.out_of_container(Command(("sh", "-c", f"echo ready; {script}")))
        with self.assertRaisesRegex(Unavailable, "not intact"):
            streams.into_container(Command(("sh", "-c", "echo ready; tail -c +2 | sha256sum")))


if __name__ == "__main__":
    unittest.main()
