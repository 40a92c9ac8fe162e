"""Checks that a missing system library fails only what depends on it, with the name of the package to install.

Runs Bazel in an output folder of its own with a pkg-config that denies one library at a time. Prints `ok LIBRARY` or
`not ok LIBRARY: why` for each, and exits 1 if any is not.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

PKG_CONFIG = """#!/bin/sh
# pkg-config on a system that lacks {hidden}.
for word; do
  if [ "$word" = "{hidden}" ]; then echo "Package {hidden} was not found" >&2; exit 1; fi
done
exec {real} "$@"
"""


def system_libraries():
    """SYSTEM_LIBRARIES of packages.bzl, which is plain enough to be Python too."""
    names = {}
    exec(pathlib.Path("tools/deps/packages.bzl").read_text(), names)  # pylint: disable=exec-used
    return names["SYSTEM_LIBRARIES"]


def all_targets():
    """//..., but spelt out: the links into other output folders of Bazel must not be taken for packages."""
    folders = {build.parts[0] for build in pathlib.Path().glob("[!.]*/**/BUILD.bazel") if not build.parts[0].startswith("bazel-")}
    return [f"//{folder}/..." for folder in sorted(folders)]


class Build:
    """Bazel in `folder`, on a system that lacks pkg-config's module `hidden`."""

    def __init__(self, folder, hidden):
        self.folder = pathlib.Path(folder)
        # A PATH of its own for each library: Bazel asks pkg-config again only when that changes.
        programs = self.folder / hidden
        programs.mkdir()
        (programs / "pkg-config").write_text(PKG_CONFIG.format(hidden=hidden, real=shutil.which("pkg-config")))
        (programs / "pkg-config").chmod(0o755)
        self.path = f"{programs}:{os.environ['PATH']}"

    def run(self, command, *args):
        """Runs Bazel and returns (exit status, stdout and stderr)."""
        done = subprocess.run(
            ["bazel", f"--output_base={self.folder}/out", "--max_idle_secs=60", command, f"--repo_env=PATH={self.path}",
             "--color=no", "--noshow_progress", *args],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.returncode, done.stdout

    def build(self, *args):
        """Builds, and leaves the checkout's bazel-bin alone."""
        return self.run("build", "--experimental_convenience_symlinks=ignore", *args)

    def dependent(self, name):
        """A target that uses the library directly; where there is none yet, the library's own."""
        query = f"kind('cc_.* rule', rdeps(set({' '.join(all_targets())}), @{name}//:{name}, 1)) except @{name}//..."
        _, output = self.run("query", query)
        return next((line for line in sorted(output.splitlines()) if line.startswith("//")), f"@{name}//:fail")


def complaint(build, name, library):
    """What is wrong when `library` is missing, or None."""
    status, output = build.build("--nobuild", *all_targets())
    if status != 0:
        return f"the workspace does not even load: {output[-2000:]}"
    status, output = build.build("//libcpr/base:unique_fd")
    if status != 0:
        return f"a target that does not use it fails: {output[-2000:]}"
    dependent = build.dependent(name)
    status, output = build.build(dependent)
    if status == 0 or f"apt-get install {library['apt']}" not in output:
        return f"{dependent} does not say to install {library['apt']}: {output[-2000:]}"
    return None


def main():
    """Goes through all libraries."""
    failed = False
    with tempfile.TemporaryDirectory(prefix="missing_library") as folder:
        for name, library in system_libraries().items():
            why = complaint(Build(folder, library["modules"][0]), name, library)
            failed = failed or why is not None
            print(f"not ok @{name}: {why}" if why else f"ok @{name}", flush=True)
        subprocess.run(["bazel", f"--output_base={folder}/out", "shutdown"], check=False)
        # Bazel makes its folders read-only.
        subprocess.run(["chmod", "-R", "u+w", folder], check=False)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
