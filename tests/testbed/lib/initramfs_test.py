"""The archive is one that cpio's format allows, and a program comes with its libraries."""

import io
import unittest

import initramfs


def entries(data):
    """Path to mode and content, of a newc archive."""
    found, at = {}, 0
    while True:
        assert data[at:at + 6] == b"070701", f"no header at {at}"
        fields = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110:at + 110 + name_size - 1].decode()
        at += (110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, data[at:at + size])
        at += (size + 3) & ~3


def make(fill):
    file = io.BytesIO()
    archive = initramfs.Archive(file)
    fill(archive)
    archive.close()
    return entries(file.getvalue())


class ArchiveTest(unittest.TestCase):
    def test_files_have_their_folders_before_them(self):
        made = make(lambda archive: archive.file("/a/b/file", b"12345", 0o644))
        self.assertEqual(list(made), ["a", "a/b", "a/b/file"])
        self.assertEqual(made["a/b"], (0o040755, b""))
        self.assertEqual(made["a/b/file"], (0o100644, b"12345"))

    def test_the_first_of_two_stays(self):
        def fill(archive):
            archive.file("f", b"1")
            archive.file("f", b"2")

        self.assertEqual(make(fill)["f"][1], b"1")

    def test_a_program_brings_its_libraries(self):
        made = make(lambda archive: archive.program("/bin/sh", "checkout/sh"))
        self.assertTrue(any("libc.so" in name for name in made), list(made))
        self.assertTrue(any("ld-linux" in name for name in made), list(made))

    def test_what_is_no_program_has_none(self):
        self.assertEqual(initramfs.libraries(__file__), [])


if __name__ == "__main__":
    unittest.main()
