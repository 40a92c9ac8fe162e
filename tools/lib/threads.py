"""Which tests ThreadSanitizer can say anything about: those of programs that a source which makes threads is part of."""

import os
import pathlib
import re
import subprocess

MAKES_THREADS = re.compile(rb"#include <(thread|future)>|\bpthread_create\b")


def sources(root):
    """Sources under `root` that make threads, relative to it. Bazel's output folders, which are links, are left out."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [pathlib.Path(folder, name) for name in names if name.endswith((".cc", ".h"))]
        found += [path.relative_to(root) for path in paths if MAKES_THREADS.search(path.read_bytes())]
    return sorted(found)


def label(root, source):
    """The name that Bazel gives a source: in the nearest folder above it that is a package."""
    package = next(folder for folder in source.parents if (root / folder / "BUILD.bazel").exists())
    return f"//{package if package.name else ''}:{source.relative_to(package)}"


def query(labels, targets):
    """Bazel's query for the tests of `targets` (patterns; those with a - in front are taken away) with these sources."""
    wanted = " + ".join(target for target in targets if not target.startswith("-"))
    unwanted = "".join(f" - {target[1:]}" for target in targets if target.startswith("-"))
    return f"tests(({wanted}){unwanted}) intersect rdeps(//..., set({' '.join(labels)}))"


def tests_among(targets):
    """Their labels, for tests of the checkout that is the working folder. Raises CalledProcessError."""
    root = pathlib.Path(".")
    words = ["bazel", "query", "--ui_event_filters=-info", "--noshow_progress",
             query([label(root, source) for source in sources(root)], targets)]
    return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
