"""tools/prereqs.txt and tools/deps/packages.bzl must name the same libraries."""

import pathlib
import unittest

TOOLS = pathlib.Path(__file__).parent


def listed_packages():
    """The packages of prereqs.txt, in its order."""
    lines = (TOOLS / "prereqs.txt").read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def system_libraries():
    """SYSTEM_LIBRARIES of packages.bzl, which is plain enough to be Python too."""
    names = {}
    exec((TOOLS / "deps/packages.bzl").read_text(), names)  # pylint: disable=exec-used
    return names["SYSTEM_LIBRARIES"]


class PrereqsTest(unittest.TestCase):
    def test_every_library_of_the_build_is_installed(self):
        wanted = {library["apt"] for library in system_libraries().values()}
        self.assertEqual(sorted(wanted - set(listed_packages())), [])

    def test_every_installed_library_is_used_by_the_build(self):
        used = {library["apt"] for library in system_libraries().values()}
        libraries = {package for package in listed_packages() if package.endswith("-dev")} - {"libclang-rt-14-dev"}
        self.assertEqual(sorted(libraries - used), [])

    def test_no_package_is_listed_twice(self):
        self.assertEqual(len(listed_packages()), len(set(listed_packages())))


if __name__ == "__main__":
    unittest.main()
