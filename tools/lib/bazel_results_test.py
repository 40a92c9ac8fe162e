"""What bazel_results counts, on events and reports as Bazel and GoogleTest write them."""

import json
import pathlib
import tempfile
import unittest

import bazel_results

GTEST_XML = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="4" failures="1" disabled="1" errors="0" name="AllTests">
  <testsuite name="FdTable">
    <testcase name="Keeps" status="run" result="completed" classname="FdTable" />
    <testcase name="Sends" status="run" result="completed" classname="FdTable">
      <failure message="x.cc:1&#x0A;Expected equality" type=""><![CDATA[x.cc:1]]></failure>
    </testcase>
    <testcase name="OnKvm" status="run" result="skipped" classname="FdTable">
      <skipped message="x.cc:9&#x0A;KVM unusable: no node&#x0A;"><![CDATA[x.cc:9]]></skipped>
    </testcase>
    <testcase name="DISABLED_Later" status="notrun" result="suppressed" classname="FdTable" />
  </testsuite>
</testsuites>"""

ALL_SKIPPED_XML = """<testsuites><testsuite name="K"><testcase name="A" status="run" result="skipped" classname="K">
<skipped message="k.cc:1&#x0A;KVM unusable: no node"/></testcase></testsuite></testsuites>"""

BAZEL_XML = """<testsuites><testsuite name="t" tests="1"><testcase name="t" status="run"></testcase></testsuite></testsuites>"""


def configured(label, kind="cc_test rule", tags=()):
    return {"id": {"targetConfigured": {"label": label}}, "configured": {"targetKind": kind, "tag": list(tags)}}


def completed(label, success=True):
    return {"id": {"targetCompleted": {"label": label}}, "completed": {"success": True} if success else {}}


class CountCasesTest(unittest.TestCase):
    def test_each_outcome_is_told_apart(self):
        results = bazel_results.count_cases("//a:b", GTEST_XML)
        self.assertEqual(results.line(), "1 passed, 1 failed, 2 skipped")
        self.assertEqual(results.failed, ["//a:b FdTable.Sends"])
        self.assertEqual(results.skipped[0], "//a:b FdTable.OnKvm: KVM unusable: no node")


class CountLinesTest(unittest.TestCase):
    def test_each_outcome_is_told_apart(self):
        results = bazel_results.count_lines("ok a\nnoise\nnot ok b: broke\nok c # SKIP no such host\nokay\n")
        self.assertEqual(results.line(), "1 passed, 1 failed, 1 skipped")
        self.assertEqual(results.failed, ["b: broke"])
        self.assertEqual(results.skipped, ["c: no such host"])


class ReadEventsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def result(self, label, xml, status="PASSED", shard=1, attempt=1):
        path = self.folder / f"{len(list(self.folder.iterdir()))} test.xml"
        path.write_text(xml)
        return {
            "id": {"testResult": {"label": label, "run": 1, "shard": shard, "attempt": attempt}},
            "testResult": {"status": status, "testActionOutput": [{"name": "test.xml", "uri": path.as_uri()}]},
        }

    def read(self, *events, not_asked=()):
        return bazel_results.read_events([json.dumps(event) for event in events], not_asked)

    def test_a_program_that_skipped_everything_did_not_pass(self):
        results = self.read(configured("//a:k"), completed("//a:k"), self.result("//a:k", ALL_SKIPPED_XML))
        self.assertEqual(results.line(), "0 passed, 0 failed, 1 skipped")

    def test_a_program_without_gtest_is_one_case(self):
        results = self.read(configured("//a:t"), completed("//a:t"), self.result("//a:t", BAZEL_XML))
        self.assertEqual(results.line(), "1 passed, 0 failed, 0 skipped")

    def test_a_crash_after_the_last_case_is_a_failure(self):
        results = self.read(configured("//a:t"), completed("//a:t"), self.result("//a:t", BAZEL_XML, "FAILED"))
        self.assertEqual(results.failed, ["//a:t: FAILED"])

    def test_all_shards_count_and_only_the_last_attempt(self):
        results = self.read(
            configured("//a:t"),
            self.result("//a:t", GTEST_XML, "FAILED", shard=1),
            self.result("//a:t", BAZEL_XML, shard=1, attempt=2),
            self.result("//a:t", BAZEL_XML, shard=2),
        )
        self.assertEqual(results.line(), "2 passed, 0 failed, 0 skipped")

    def test_what_could_not_be_built_failed_and_is_named(self):
        results = self.read(configured("//a:t"), completed("//a:t", success=False), completed("//a:lib", success=False))
        self.assertEqual(results.failed, ["//a:lib: could not be built", "//a:t: could not be built"])

    def test_what_could_not_be_loaded_failed_and_is_named(self):
        aborted = {"id": {"pattern": {"pattern": ["//b/..."]}}, "aborted": {"description": "no such package"}}
        self.assertEqual(self.read(aborted).failed, ["//b/...: could not be built: no such package"])

    def test_a_test_that_never_ran_failed(self):
        self.assertEqual(self.read(configured("//a:t"), completed("//a:t")).failed, ["//a:t: was not run"])

    def test_a_test_that_was_not_asked_for_need_not_run_but_must_be_built(self):
        tagged = configured("//a:t", tags=["no_asan"])
        self.assertEqual(self.read(tagged, completed("//a:t"), not_asked=["no_asan"]).line(), "0 passed, 0 failed, 0 skipped")
        self.assertEqual(self.read(tagged, completed("//a:t"), not_asked=["no_tsan"]).failed, ["//a:t: was not run"])
        broken = self.read(tagged, completed("//a:t", success=False), not_asked=["no_asan"])
        self.assertEqual(broken.failed, ["//a:t: could not be built"])


if __name__ == "__main__":
    unittest.main()
