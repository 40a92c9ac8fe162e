"""What threads finds in a checkout, and asks Bazel."""

import pathlib
import tempfile
import unittest

import threads


class SourcesTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def test_what_makes_threads_is_found(self):
        self.write("vmm/cpu/vcpu.h", "#include <thread>\n")
        self.write("tests/c.cc", "  pthread_create(&id, nullptr, Run, nullptr);\n")
        self.write("vmm/cpu/state.h", "#include <string>\n")
        self.write("docs/threads.md", "#include <thread>\n")
        self.assertEqual([str(path) for path in threads.sources(self.root)], ["tests/c.cc", "vmm/cpu/vcpu.h"])

    def test_outputs_are_not_searched(self):
        self.write("out/vcpu.h", "#include <thread>\n")
        (self.root / "tree").mkdir()
        (self.root / "tree/bazel-out").symlink_to(self.root / "out")
        self.assertEqual(threads.sources(self.root / "tree"), [])

    def test_a_source_has_the_label_of_its_package(self):
        self.write("vmm/BUILD.bazel", "")
        self.write("BUILD.bazel", "")
        self.assertEqual(threads.label(self.root, pathlib.Path("vmm/cpu/vcpu.h")), "//vmm:cpu/vcpu.h")
        self.assertEqual(threads.label(self.root, pathlib.Path("main.cc")), "//:main.cc")


class QueryTest(unittest.TestCase):
    def test_targets_to_be_left_out_are(self):
        self.assertEqual(threads.query(["//a:b.h"], ["//a/...", "//b/...", "-//b/c/..."]),
                         "tests((//a/... + //b/...) - //b/c/...) intersect rdeps(//..., set(//a:b.h))")


if __name__ == "__main__":
    unittest.main()
