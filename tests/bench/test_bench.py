"""Tests of the benchmark's own arithmetic and parsing; nothing is timed here."""

import socket
import subprocess
import tempfile
import unittest
import unittest.mock
from pathlib import Path

import daemon
import flood
import processes
import report
import streams
from measure import Command, Series, Subject, Unavailable, interleaved, interval, ratio


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

    def test_interval_holds_the_ratio_and_is_as_wide_as_the_noise(self) -> None:
        still = interval(Series("ours", "s", [2.0] * 9), Series("theirs", "s", [1.0] * 9))
        self.assertEqual(still, (2.0, 2.0))
        low, high = interval(Series("ours", "s", [0.8, 1.0, 1.2] * 4), Series("theirs", "s", [1.2, 0.8, 1.0] * 4))
        self.assertTrue(low < 1 < high, (low, high))

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

    def test_damage_is_a_missed_promise_that_says_what(self) -> None:
        self.assertEqual(report.checked("P0", "title", "1 MB", "all", "").verdict, report.Verdict.MET)
        damaged = report.checked("P0", "title", "1 MB", "all", "byte 7")
        self.assertEqual(damaged.verdict, report.Verdict.MISSED)
        self.assertIn("byte 7", report.table([damaged]))

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

    def test_sizes_are_read_as_the_kernel_prints_them(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "status"
            path.write_text("Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
            self.assertEqual(processes.kib_of(path, "VmHWM"), 2048)
            with self.assertRaisesRegex(Unavailable, "no Pss"):
                processes.kib_of(path, "Pss")

    def test_unknown_guest_memory_is_no_result(self) -> None:
        with self.assertRaises(Unavailable):
            processes.resident_beyond_guest_mib(processes.parse_smaps(self.SMAPS), 512)


@unittest.mock.patch.object(streams, "STREAM_MIB", 8)
class Streams(unittest.TestCase):
    def test_every_piece_differs(self) -> None:
        self.assertEqual(len(set(streams.pattern(16))), 16)

    def test_intact_streams_are_accepted(self) -> None:
        size = streams.STREAM_MIB * streams.MIB
        streams.out_of_container(Command(("sh", "-c", f"echo ready; head -c {size} /dev/zero | tr '\\0' x")))
        streams.into_container(Command(("sh", "-c", "echo ready; exec sha256sum")))

    def test_damage_is_found(self) -> None:
        size = streams.STREAM_MIB * streams.MIB
        for script in (f"head -c {size - 1} /dev/zero | tr '\\0' x", "head -c 10 /dev/urandom", "exit 3"):
            with self.assertRaises(Unavailable):
                streams.out_of_container(Command(("sh", "-c", f"echo ready; {script}")))
        with self.assertRaisesRegex(Unavailable, "not intact"):
            streams.into_container(Command(("sh", "-c", "echo ready; tail -c +2 | sha256sum")))


class Flood(unittest.TestCase):
    def printed(self, blocks: int) -> bytes:
        return b"".join(b"%d\n" % (block + 1) + flood.BLOCK for block in range(blocks)) + b"end %d\n" % blocks

    def logged(self, printed: bytes) -> bytes:
        """As the daemon writes it."""
        head, tail = b'{"log":"', b'\\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}\n'
        return b"".join(head + line + tail for line in printed.splitlines())

    def check(self, printed: bytes, piece_bytes: int) -> None:
        checker = flood.Checker()
        for at in range(0, len(printed), piece_bytes):
            checker.feed(printed[at : at + piece_bytes])
        checker.finish()

    def check_log(self, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            log.write_bytes(content)
            flood.check_log(log, flood.Checker())

    def test_what_is_printed_is_accepted_however_it_is_cut(self) -> None:
        for piece_bytes in (4093, len(flood.BLOCK), 10 * len(flood.BLOCK)):
            self.check(self.printed(3), piece_bytes)

    def test_whatever_is_wrong_is_found(self) -> None:
        whole = self.printed(2)
        middle = len(whole) // 2
        line = flood.LINE_BYTES
        for wrong in (
            whole[:middle] + whole[middle + 1 :],  # a byte that is missing
            whole[: middle + line] + whole[middle:],  # a line that is there twice
            whole[2 + len(flood.BLOCK) :],  # a block that is missing
            whole[: -len("end 2\n")],  # no end
            whole[:middle],
            whole + b"1\n",
            whole.replace(b"end 2", b"end 3"),
            b"",
        ):
            with self.assertRaises(flood.Damaged):
                self.check(wrong, 5000)

    def test_the_log_is_read_whole(self) -> None:
        content = self.logged(self.printed(2))
        self.check_log(content)
        lines = content.splitlines(keepends=True)
        lost, strange = lines[:70] + lines[71:], [*lines[:70], b'{"log":"\n', *lines[70:]]
        for wrong in (b"".join(lost), b"".join(strange), content[:-1], content[: len(content) // 2], b""):
            with self.assertRaises(flood.Damaged):
                self.check_log(wrong)

    def test_the_container_prints_what_is_expected(self) -> None:
        script = flood.SCRIPT.replace("/tmp/block", '"$0"').replace("n + 1));", "n + 1)); [ $n = 3 ] && stop=1;")
        self.assertIn("stop=1;", script)
        with tempfile.NamedTemporaryFile() as block:
            words = ("busybox", "sh", "-c", script, block.name)
            self.check(subprocess.run(words, capture_output=True, check=True).stdout, 1 << 20)

    def test_a_small_disk_needs_less_room(self) -> None:
        self.assertEqual(flood.least_free_bytes(400 << 30), 5 << 30)
        self.assertEqual(flood.least_free_bytes(4 << 30), 1 << 30)


class Answers(unittest.TestCase):
    def test_heads_tell_status_and_length(self) -> None:
        self.assertEqual(daemon.parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 12"), (200, 12))
        self.assertEqual(daemon.parse_head(b"HTTP/1.1 204 No Content\r\nserver: x"), (204, 0))
        self.assertEqual(daemon.parse_head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked"), (200, None))
        with self.assertRaisesRegex(Unavailable, "HTTP"):
            daemon.parse_head(b"SSH-2.0-x")

    def test_chunks_are_put_together(self) -> None:
        self.assertEqual(daemon.unchunked(b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n"), b"abcd")

    def test_a_refusal_says_why(self) -> None:
        for answer in (
            b'HTTP/1.1 404 Not Found\r\nContent-Length: 15\r\n\r\nno such thing\r\n',
            b'HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\nd\r\nno such thing\r\n0\r\n\r\n',
        ):
            with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
                path = Path(folder) / "s"
                listener.bind(str(path))
                listener.listen()
                with daemon.Connection(path) as connection:
                    server, _ = listener.accept()
                    with server, self.assertRaisesRegex(Unavailable, "GET /x .*no such thing"):
                        server.sendall(answer)
                        connection.exchange(daemon.request_of("GET", "/x"))


if __name__ == "__main__":
    unittest.main()
