"""tests/testbed/run: prepares the testbed and runs scenarios in it."""

import argparse
import datetime
import os
import pathlib
import shutil
import subprocess
import sys
import time

import emulator
import initramfs
import scenario as scenarios

TESTBED = pathlib.Path(__file__).resolve().parent.parent
CHECKOUT = TESTBED.parent.parent
# What goes in front of each scenario, of host/; a file may use those before it.
HELPERS = ("helpers.sh", "linux_guest.sh", "edu_guest.sh", "peers.sh")
# Folders of earlier runs that are kept.
KEPT_RUNS = 40


def say(text):
    """For whoever watches; standard output has the results alone."""
    print(text, file=sys.stderr, flush=True)


def find_all():
    """All scenarios, by name."""
    found = {}
    for path in sorted((TESTBED / "scenarios").glob("*.sh")):
        found[path.stem] = scenarios.parse(path.stem, path.relative_to(CHECKOUT), path.read_text())
    return found


def choose(known, options):
    """The scenarios that the command line asks for."""
    if options.all:
        return [scenario for scenario in known.values() if not scenario.by_name]
    return [known[name] for name in options.names]


def parse_options(argv):
    """The command line; everything behind -- goes to the scenario."""
    argv, rest = (argv[:argv.index("--")], argv[argv.index("--") + 1:]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(prog="tests/testbed/run", add_help=False)
    for flag in ("all", "list", "keep", "prepare", "show"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args(argv)
    options.arguments = rest
    return options


def prepare():
    """The Debian root and the kernel, made where they are missing. None: that did not work, and it was said why."""
    done = subprocess.run([TESTBED / "prepare"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return None
    parts = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return pathlib.Path(parts["root"]), pathlib.Path(parts["kernel"])


def build(chosen):
    """Builds what the scenarios run. Whether that worked."""
    labels = sorted({label for scenario in chosen for label in scenario.labels()})
    if not labels:
        return True
    display = [] if sys.stderr.isatty() else ["--color=no", "--curses=no", "--show_progress_rate_limit=15"]
    command = ["bazel", "build", *display, "--ui_event_filters=-info", "--", *labels]
    return subprocess.run(command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode == 0


def write_initramfs(path, scenario, debian, arguments):
    """The host's initramfs: busybox, the scenario and what it runs."""
    with open(path, "wb") as file:
        archive = initramfs.Archive(file)
        archive.program(debian / "usr/bin/busybox", "bin/busybox")
        archive.file("init", (TESTBED / "host/init").read_bytes())
        complaints = (TESTBED / "guest/complaints.awk").read_bytes()
        archive.file("testbed/complaints.awk", complaints, 0o644)
        helpers = "\n".join((TESTBED / "host" / name).read_text() for name in HELPERS)
        quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in arguments)
        text = f"{helpers}\nset -- {quoted}\n" + (CHECKOUT / scenario.path).read_text()
        archive.file("testbed/scenario", text.encode(), 0o644)
        archive.folder("checkout")
        for built in scenario.files:
            archive.program(CHECKOUT / "bazel-bin" / built, f"checkout/{built}")
        archive.close()


def new_folder(runs, name):
    """A folder for one run; the oldest ones go."""
    runs.mkdir(exist_ok=True)
    for old in sorted(runs.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT_RUNS]:
        shutil.rmtree(old, ignore_errors=True)
    folder = runs / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
    (folder / "share").mkdir(parents=True)
    return folder


def run_one(scenario, debian, kernel, options):
    """Runs a scenario in a host, and returns its verdict. Of its folder the logs stay, with --keep everything."""
    folder = new_folder(debian.parent / "runs", scenario.name)
    shutil.copy(kernel, folder / "share/kernel")
    write_initramfs(folder / "share/initrd", scenario, debian, options.arguments)
    words = emulator.command(scenario, debian, kernel, folder)
    start = time.monotonic()
    try:
        verdict = emulator.run(words, folder, scenario.seconds, sys.stdout.buffer if options.show else None)
    finally:
        if not options.keep:
            for path in [folder / "share", folder / "nvdimm", *folder.glob("nvme*")]:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    say(f"testbed: {scenario.name}: {verdict.kind} in {time.monotonic() - start:.0f} s; log: {folder}/log")
    return verdict


# What fail of host/helpers.sh says of a guest whose kernel never came to PID 1.
NOT_BOOTED = "the guest does not boot: "


def run(scenario, debian, kernel, options, run_once=run_one):
    """Runs a scenario, and once more if its guest did not boot: one in hundreds stands still in QEMU's emulation
    (docs/testbed.md). It is said; twice is a failure."""
    verdict = run_once(scenario, debian, kernel, options)
    if verdict.kind == "fail" and verdict.why.startswith(NOT_BOOTED):
        say(f"testbed: {scenario.name}: {verdict.why}. Once more")
        verdict = run_once(scenario, debian, kernel, options)
    return verdict


def report(name, verdict):
    """One line, as tools/test reads it."""
    start = "not ok" if verdict.kind == "fail" else "ok"
    end = {"pass": "", "skip": f" # SKIP {verdict.why}", "fail": f": {verdict.why}"}[verdict.kind]
    print(f"{start} {name}{end}", flush=True)


def main(argv):
    """Runs what the command line asks for; exit status 1 if a scenario failed."""
    options = parse_options(argv)
    try:
        known = find_all()
    except scenarios.BadScenario as error:
        say(str(error))
        return 2
    if options.list:
        for scenario in known.values():
            print(f"{scenario.name:<14} {scenario.shows}{' (not among --all)' if scenario.by_name else ''}")
        return 0
    unknown = [name for name in options.names if name not in known]
    if unknown or not (options.names or options.all or options.prepare):
        asked = f"no scenario {unknown[0]}." if unknown else "which scenario?"
        say(f"testbed: {asked} There are: {' '.join(known)}")
        return 2
    chosen = choose(known, options)
    parts = prepare()
    if not parts:
        for scenario in chosen:
            report(scenario.name, emulator.Verdict("fail", "the testbed could not be prepared"))
        return 1
    if not build(chosen):
        for scenario in chosen:
            report(scenario.name, emulator.Verdict("fail", "its programs could not be built"))
        return 1
    failed = False
    for scenario in chosen:
        verdict = run(scenario, *parts, options)
        report(scenario.name, verdict)
        failed = failed or verdict.kind == "fail"
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("USER", "root")
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
