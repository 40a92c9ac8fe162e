"""Runs the lanes of tools/test, which describes them in its --help."""

import argparse
import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import bazel_results
import threads


@dataclasses.dataclass(frozen=True)
class Lane:
    """One way to build and test: a Bazel command with its options, or a program's command line.

    `without`: folders whose tests it leaves out, because another lane says enough about them.
    `untested`: tags whose tests it builds, but does not run.
    `threaded`: only tests of programs that make threads.
    """

    name: str
    does: str
    options: tuple = ()
    untested: tuple = ()
    without: tuple = ()
    threaded: bool = False
    program: tuple = ()


LANES = (
    Lane("default", "optimised build of everything, all tests"),
    Lane("asan", "everything again with clang and layering_check; tests under AddressSanitizer and UBSan",
         ("--config=asan",), untested=("no_asan",), without=("bench",)),
    Lane("tsan", "tests of what has threads under ThreadSanitizer",
         ("--config=tsan", "--build_tests_only", "--build_tag_filters=-no_tsan"), untested=("no_tsan",),
         without=("bench", "examples"), threaded=True),
    Lane("deps", "a missing system library says what to install", program=("/usr/bin/python3", "tools/deps/missing_library_check.py")),
    Lane("testbed", "scenarios in an emulated host", program=("tests/testbed/run", "--no-prereqs", "--all")),
)


def say(text):
    """Progress for whoever watches; the last line of all is the only thing on standard output."""
    print(text, file=sys.stderr, flush=True)


def bazel(command, *options):
    """Runs Bazel, its output on stderr; one line every 15 s where that is no terminal. Returns its exit status."""
    display = [] if sys.stderr.isatty() else ["--color=no", "--curses=no", "--show_progress_rate_limit=15"]
    return subprocess.run(["bazel", command, *display, *options], stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode


def kvm_works():
    """Whether a guest can run here, and why not."""
    if bazel("build", "//tools:kvm_probe") != 0:
        return False, "//tools:kvm_probe could not be built"
    probe = subprocess.run(["bazel-bin/tools/kvm_probe"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return probe.returncode == 0, probe.stdout.strip()


def targets_of(lane):
    """All but the folders that the lane leaves out; Bazel takes it amiss if one of those holds no package."""
    holding = [folder for folder in lane.without if any(pathlib.Path(folder).rglob("BUILD.bazel"))]
    return ["//...", *(f"-//{folder}/..." for folder in holding)]


def run_bazel_lane(lane, targets, kvm):
    """Builds and tests; what failed is in the results even where Bazel stopped early."""
    try:
        targets = threads.tests_among(targets) if lane.threaded else targets
    except subprocess.CalledProcessError as error:
        return bazel_results.Results(failed=[f"bazel query ended with exit status {error.returncode}"])
    if not targets:
        return bazel_results.Results()
    with tempfile.NamedTemporaryFile("r", prefix="events", suffix=".json") as events:
        options = [*lane.options, "--keep_going", f"--build_event_json_file={events.name}"]
        # bazel-bin and the other links stay with the default build, which is the one that people run.
        if lane.options:
            options.append("--experimental_convenience_symlinks=ignore")
        if lane.untested:
            options.append("--test_tag_filters=" + ",".join(f"-{tag}" for tag in lane.untested))
        if kvm:
            options.append("--test_env=CPR_REQUIRE_KVM=1")
        status = bazel("test", *options, "--", *targets)
        results = bazel_results.read_events(events, lane.untested)
    # 4: there are no tests among the targets.
    if status not in (0, 4) and not results.failed:
        results.failed.append(f"bazel ended with exit status {status}")
    return results


def run_program_lane(lane):
    """Runs a program that prints a line for each of its checks (bazel_results.count_lines)."""
    done = subprocess.run(lane.program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    results = bazel_results.count_lines(done.stdout)
    if done.returncode != 0 and not results.failed:
        results.failed.append(f"{' '.join(lane.program)}: exit status {done.returncode}")
    return results


def run_lane(lane, targets, kvm):
    """Runs one lane and says how it went."""
    say(f"\n=== {lane.name}: {lane.does}")
    start = time.monotonic()
    results = run_program_lane(lane) if lane.program else run_bazel_lane(lane, targets or targets_of(lane), kvm)
    say(f"=== {lane.name}: {results.programs} programs, {results.line()} ({time.monotonic() - start:.0f} s)")
    return bazel_results.Results(
        results.passed,
        [f"[{lane.name}] {failure}" for failure in results.failed],
        [f"[{lane.name}] {skip}" for skip in results.skipped],
    )


def parse(argv):
    """The lanes and targets that the command line asks for."""
    parser = argparse.ArgumentParser(prog="tools/test", add_help=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--lane", action="append", choices=[lane.name for lane in LANES], default=[])
    parser.add_argument("targets", nargs="*")
    options = parser.parse_args(argv)
    names = options.lane or (["default"] if options.quick else [lane.name for lane in LANES])
    return [lane for lane in LANES if lane.name in names], options.targets


def main(argv):
    """Runs the lanes, then reports."""
    lanes, targets = parse(argv)
    kvm, why = kvm_works()
    say(f"{why}: " + ("a skipped KVM test is a failure" if kvm else "tests that need KVM are skipped"))
    total = bazel_results.Results()
    for lane in lanes:
        total.add(run_lane(lane, targets, kvm))
    for heading, lines in (("skipped", total.skipped), ("FAILED", total.failed)):
        if lines:
            say(f"\n{heading}:")
        for line in lines:
            say(f"  {line}")
    say("")
    print(total.line())
    return 1 if total.failed else 0


if __name__ == "__main__":
    os.environ.setdefault("USER", "root")
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
