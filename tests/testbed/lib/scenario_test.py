"""What scenario files may say, and what is refused with the line that is wrong."""

import unittest

import scenario


def parse(text):
    return scenario.parse("x", "scenarios/x.sh", text)


class ParseTest(unittest.TestCase):
    def test_says_what_it_shows_and_needs(self):
        parsed = parse("# The clock survives.\n#: files vmm/cpr-vmm a/b\n#: files c/d\n#: memory 3G\n#: edu\n\ntrue\n")
        self.assertEqual(parsed.shows, "The clock survives.")
        self.assertEqual(parsed.labels(), ["//vmm:cpr-vmm", "//a:b", "//c:d"])
        self.assertEqual((parsed.memory, parsed.edu, parsed.nvme, parsed.cpus), ("3G", True, (), 2))

    def test_may_need_several_disks(self):
        self.assertEqual(parse("# Shows.\n#: nvme 64M 1G\n").nvme, ("64M", "1G"))

    def test_what_is_below_the_first_line_of_code_is_not_for_it(self):
        self.assertEqual(parse("# Shows.\ntrue\n#: nonsense\n").shows, "Shows.")

    def test_refuses_what_it_does_not_know_and_says_where(self):
        for text, why in (
            ("# Shows.\n#: nvdim 64M\n", "x.sh:2: 'nvdim' is none of"),
            ("# Shows.\n#:\n", "x.sh:2: '' is none of"),
            ("# Shows.\n#: memory 64\n", "x.sh:2: memory takes one size"),
            ("# Shows.\n#: nvme\n", "x.sh:2: nvme takes sizes"),
            ("# Shows.\n#: nvme 64M 1\n", "x.sh:2: nvme takes one size"),
            ("# Shows.\n#: cpus 0\n", "x.sh:2: cpus takes one number"),
            ("# Shows.\n#: edu 1\n", "x.sh:2: edu takes nothing"),
            ("# Shows.\n#: files\n", "x.sh:2: files takes the paths"),
            ("true\n", "x.sh:1: begins with no comment"),
        ):
            with self.subTest(text), self.assertRaisesRegex(scenario.BadScenario, why):
                parse(text)


if __name__ == "__main__":
    unittest.main()
