import contextlib
import io
import types
import unittest

import emulator
import main
import scenario


def run(*verdicts):
    """How often a scenario with these verdicts is run, and what comes of it."""
    left = list(verdicts)
    toy = types.SimpleNamespace(name="x")
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        verdict = main.run(toy, None, None, None, run_once=lambda *_: left.pop(0))
    return len(verdicts) - len(left), verdict.kind


class RunTest(unittest.TestCase):
    boots_not = emulator.Verdict("fail", main.NOT_BOOTED + "the guest does not say 'work 2 '")

    def test_a_guest_that_does_not_boot_gets_a_second_try(self):
        self.assertEqual(run(self.boots_not, emulator.Verdict("pass", "")), (2, "pass"))

    def test_twice_is_a_failure(self):
        self.assertEqual(run(self.boots_not, self.boots_not, emulator.Verdict("pass", "")), (2, "fail"))

    def test_nothing_else_is_tried_again(self):
        lost = emulator.Verdict("fail", "the guest does not say 'work 9 '")
        self.assertEqual(run(lost, emulator.Verdict("pass", "")), (1, "fail"))


class ChooseTest(unittest.TestCase):
    known = {scenario.name: scenario for scenario in (
        scenario.parse("tests", "tests.sh", "# Tests.\n"), scenario.parse("measures", "measures.sh", "# Measures.\n#: by_name\n"))}

    def chosen(self, *words):
        return [chosen.name for chosen in main.choose(self.known, main.parse_options(list(words)))]

    def test_all_leaves_out_what_measures(self):
        self.assertEqual(self.chosen("--all"), ["tests"])

    def test_by_its_name_it_is_run(self):
        self.assertEqual(self.chosen("measures", "tests"), ["measures", "tests"])


if __name__ == "__main__":
    unittest.main()
