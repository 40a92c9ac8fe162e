"""Counts what a Bazel run really tested.

Bazel calls a test program that skipped all its cases PASSED, and does not mention tests that it could not build among
the failures. Here the unit is the test case, read from each program's test.xml, and what never ran counts as failed.
"""

import collections
import dataclasses
import json
import urllib.parse
import xml.etree.ElementTree


@dataclasses.dataclass
class Results:
    """Test cases by outcome: a number, then lines that say which."""

    passed: int = 0
    failed: list = dataclasses.field(default_factory=list)
    skipped: list = dataclasses.field(default_factory=list)
    programs: int = 0

    def add(self, other):
        """Adds `other`'s cases to these."""
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def line(self):
        """The figures, in the form in which tools/test ends."""
        return f"{self.passed} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"


def _first_line(text):
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), "no reason given")


def _skip_reason(skipped):
    # GoogleTest's message is "file:line" on a line of its own, then what the test said.
    lines = [line for line in (skipped.get("message") or skipped.text or "").splitlines() if line.strip()]
    return _first_line("\n".join(lines[1:] if len(lines) > 1 else lines))


def count_cases(label, xml_text):
    """The cases of one test.xml (GoogleTest's, or the one that Bazel makes up for other programs)."""
    results = Results()
    for case in xml.etree.ElementTree.fromstring(xml_text).iter("testcase"):
        name = ".".join(part for part in (case.get("classname"), case.get("name")) if part)
        if case.find("failure") is not None or case.find("error") is not None:
            results.failed.append(f"{label} {name}")
        elif case.find("skipped") is not None:
            results.skipped.append(f"{label} {name}: {_skip_reason(case.find('skipped'))}")
        elif case.get("status") == "notrun":
            results.skipped.append(f"{label} {name}: disabled")
        else:
            results.passed += 1
    return results


def _read_uri(uri):
    with open(urllib.parse.unquote(urllib.parse.urlparse(uri).path), encoding="utf-8", errors="replace") as file:
        return file.read()


def _program_results(label, test_result):
    """One run of one program (or shard). A crash or an unreadable test.xml is one failure more."""
    status = test_result.get("status", "NO_STATUS")
    results = Results()
    for output in test_result.get("testActionOutput", []):
        if output["name"] == "test.xml":
            try:
                results = count_cases(label, _read_uri(output["uri"]))
            except (OSError, xml.etree.ElementTree.ParseError) as error:
                results.failed.append(f"{label}: its test.xml is no use: {error}")
    if status not in ("PASSED", "FLAKY") and not results.failed:
        results.failed.append(f"{label}: {status}")
    if status == "PASSED" and results.passed + len(results.failed) + len(results.skipped) == 0:
        results.passed = 1
    return results


def count_lines(text):
    """The checks of a program that prints `ok NAME`, `ok NAME # SKIP WHY` or `not ok NAME: WHY` for each."""
    results = Results(programs=1)
    for line in text.splitlines():
        if line.startswith("not ok "):
            results.failed.append(line[len("not ok "):])
        elif line.startswith("ok ") and " # SKIP " in line:
            results.skipped.append(line[len("ok "):].replace(" # SKIP ", ": ", 1))
        elif line.startswith("ok "):
            results.passed += 1
    return results


class _Events:
    """The events of a build-event file by kind, keyed by target. `not_asked`: tags whose tests are built, but not run."""

    def __init__(self, lines, not_asked):
        self.not_asked = set(not_asked)
        self.tests = set()
        self.done = {}
        self.runs = collections.defaultdict(dict)
        self.aborted = {}
        for line in lines:
            self._take(json.loads(line))

    def _take(self, event):
        kind, key = next(iter(event["id"].items()), (None, {}))
        label = key.get("label", "") if isinstance(key, dict) else ""
        if "aborted" in event:
            name = label or " ".join(key.get("pattern", [])) or kind
            self.aborted[name] = _first_line(event["aborted"].get("description") or event["aborted"].get("reason"))
        elif kind == "targetConfigured" and event["configured"].get("targetKind", "").endswith("_test rule"):
            if self.not_asked.isdisjoint(event["configured"].get("tag", [])):
                self.tests.add(label)
        elif kind == "targetCompleted":
            self.done[label] = event.get("completed", {}).get("success", False)
        elif kind == "testResult":
            # A later attempt replaces an earlier one.
            self.runs[label][(key.get("run"), key.get("shard"))] = event["testResult"]


def read_events(lines, not_asked=()):
    """The results of one `bazel test` from the lines of its --build_event_json_file.

    `not_asked`: the tags that --test_tag_filters left out. Their tests must be built, but need not have run.
    """
    events = _Events(lines, not_asked)
    results = Results(programs=len(events.tests))
    for label, runs in sorted(events.runs.items()):
        for run in runs.values():
            results.add(_program_results(label, run))
    broken = {label: "could not be built" for label, success in events.done.items() if not success}
    broken.update({label: f"could not be built: {why}" for label, why in events.aborted.items()})
    broken.update({label: "was not run" for label in events.tests - set(events.runs) - set(broken)})
    results.failed += [f"{label}: {why}" for label, why in sorted(broken.items()) if label not in events.runs]
    return results
