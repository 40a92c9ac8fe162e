"""How a host's end is judged, with other programs in QEMU's place."""

import io
import pathlib
import tempfile
import unittest

import emulator
import scenario


class ReadVerdictTest(unittest.TestCase):
    def test_each_kind(self):
        self.assertEqual(emulator.read_verdict("pass\r\n"), emulator.Verdict("pass"))
        self.assertEqual(emulator.read_verdict("fail no disk\r\n"), emulator.Verdict("fail", "no disk"))
        self.assertEqual(emulator.read_verdict("skip no way\n"), emulator.Verdict("skip", "no way"))

    def test_what_is_cut_off_or_something_else_is_none(self):
        for text in ("", "pas", "password\r\n", " pass\r\n", "fail\x00"):
            self.assertIsNone(emulator.read_verdict(text), text)


class RunTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_host(self, script, seconds=60, echo=None):
        return emulator.run(["/bin/sh", "-c", f"cd {self.folder}; {script}"], self.folder, seconds, echo)

    def test_the_verdict_counts_and_the_console_does_not(self):
        self.assertEqual(self.run_host("echo pass >verdict; echo fail"), emulator.Verdict("pass"))
        self.assertEqual((self.folder / "log").read_bytes(), b"fail\n")

    def test_the_console_alone_is_no_verdict(self):
        verdict = self.run_host("echo pass; exit 3")
        why = "the host ended without a verdict (QEMU's exit status 3)"
        self.assertEqual(verdict, emulator.Verdict("fail", why))

    def test_a_hung_host_is_killed(self):
        verdict = self.run_host("exec sleep 1000", seconds=1)
        self.assertEqual((verdict.kind, verdict.why), ("fail", "no verdict after 1 s: the host was killed"))

    def test_the_console_can_be_watched(self):
        console = io.BytesIO()
        self.run_host("echo hello", echo=console)
        self.assertEqual(console.getvalue(), b"hello\n")


class CommandTest(unittest.TestCase):
    def test_a_scenario_gets_the_devices_that_it_asks_for(self):
        with tempfile.TemporaryDirectory() as folder:
            wanted = scenario.Scenario("x", "x.sh", "shows", memory="3G", nvdimm="512M", nvme=("64M", "16M"), edu=True, e1000e=True)
            words = emulator.command(wanted, "/root", "/kernel", pathlib.Path(folder))
            self.assertIn("3G,slots=2,maxmem=7516192768", words)
            self.assertIn("edu", words)
            self.assertIn("e1000e,netdev=n0,romfile=", words)
            self.assertEqual(words[words.index("-smp") + 1], "3", "two CPUs for guests, and the first")
            self.assertIn("setcpuid=constant_tsc", words[words.index("-append") + 1].split(), "guests lose their ticks")
            self.assertEqual((pathlib.Path(folder) / "nvdimm").stat().st_size, (512 << 20) + (128 << 10))
            self.assertEqual((pathlib.Path(folder) / "nvme0").stat().st_size, 64 << 20)
            self.assertEqual((pathlib.Path(folder) / "nvme1").stat().st_size, 16 << 20)
            self.assertLess(words.index("nvme,drive=d0,serial=x0"), words.index("nvme,drive=d1,serial=x1"))

    def test_a_logged_disk_leaves_its_writes_where_the_host_sees_them(self):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "share").mkdir()
            words = emulator.command(scenario.Scenario("x", "x.sh", "shows", logged="16M"), "/root", "/kernel", pathlib.Path(folder))
            self.assertTrue((pathlib.Path(folder) / "share/writes").exists())
            self.assertIn("virtio-blk-pci,drive=d", words)
            self.assertTrue(any(word.startswith("blklogwrites,") for word in words), words)

    def test_disks_of_one_slot_are_its_functions(self):
        with tempfile.TemporaryDirectory() as folder:
            wanted = scenario.Scenario("x", "x.sh", "shows", nvme=("16M", "16M"), one_slot=True)
            words = emulator.command(wanted, "/root", "/kernel", pathlib.Path(folder))
            for number in (0, 1):
                self.assertIn(f"nvme,drive=d{number},serial=x{number},addr=0x10.{number},multifunction=on", words)


if __name__ == "__main__":
    unittest.main()
