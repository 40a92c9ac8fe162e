"""What a Linux guest's kernel log must hold to be a complaint, and what only looks like one."""

import pathlib
import subprocess
import unittest

RULES = pathlib.Path(__file__).parent.parent / "guest/complaints.awk"


def complaints(log):
    return subprocess.run(["awk", "-f", str(RULES)], input=log, text=True, capture_output=True, check=True).stdout


def skew(watchdog_ns, clock_ns):
    return (
        "[   72.85] clocksource: Marking clocksource tsc unstable due to frequency skew\n"
        f"[   73.18] clocksource: Watchdog               kvm-clock interval: {watchdog_ns:16}ns\n"
        f"[   73.36] clocksource: Clocksource                  tsc interval: {clock_ns:16}ns\n"
        "[   73.53] tsc: Marking TSC unstable due to clocksource watchdog\n"
    )


class ComplaintsTest(unittest.TestCase):
    def test_clocks_that_are_apart_are_told_with_how_far(self):
        self.assertIn("tsc interval:        506000000ns, 6000000 ns from", complaints(skew(500_000_000, 506_000_000)))
        self.assertIn("60000 ns from", complaints(skew(500_060_000, 500_000_000)))

    def test_a_reading_that_was_late_is_none(self):
        self.assertEqual(complaints(skew(429_046, 425_558)), "")

    def test_every_other_complaint_is_told_as_it_is(self):
        for line in (
            "[ 1.0] watchdog: BUG: soft lockup - CPU#1 stuck for 22s!",
            "[ 1.0] rcu: INFO: rcu_sched self-detected stall on CPU",
            "[ 1.0] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
            "[ 1.0] INFO: task worker:71 blocked for more than 120 seconds.",
            "[ 1.0] I/O error, dev vda, sector 8 op 0x1:(WRITE)",
            "[ 1.0] nvme nvme0: I/O tag 5 (1005) opcode 0x1 (I/O Cmd) QID 1 timeout, aborting",
            "[ 1.0] nvme nvme0: resetting controller",
            "[ 1.0] clocksource: Marking clocksource tsc unstable due to inter CPU skew",
            "[ 1.0] tsc: Marking TSC unstable due to check_tsc_sync_source failed",
        ):
            with self.subTest(line):
                self.assertEqual(complaints(line + "\n"), line + "\n")

    def test_an_ordinary_log_has_none(self):
        for line in (
            "[ 0.3] clocksource: tsc: mask: 0xffffffffffffffff max_idle_ns: 44 ns",
            "[ 0.0] Command line: console=ttyS0 rcupdate.rcu_cpu_stall_suppress=1",
            "[ 9.0] lkdtm: Performing direct entry HARDLOCKUP",
        ):
            with self.subTest(line):
                self.assertEqual(complaints(line + "\n"), "")


if __name__ == "__main__":
    unittest.main()
