"""Makes the emulated host's initramfs: a cpio archive of the programs that it needs, with their libraries."""

import os
import re
import stat
import subprocess


def _header(mode, name, size, inode):
    # The newc format: a magic and 13 numbers of 8 hexadecimal digits, then the name, all padded to 4 bytes.
    fields = (inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name + b"\0"
    return head + b"\0" * (-len(head) % 4)


class Archive:
    """A cpio archive that grows in `file`. Folders come by themselves; a path that is already there is left."""

    def __init__(self, file):
        self._file = file
        self._seen = set()

    def _entry(self, mode, path, content):
        self._seen.add(path)
        self._file.write(_header(mode, path.encode(), len(content), len(self._seen)))
        self._file.write(content + b"\0" * (-len(content) % 4))

    def folder(self, path):
        """Adds a folder, and those above it."""
        path = path.strip("/")
        if path and path not in self._seen:
            self.folder(os.path.dirname(path))
            self._entry(stat.S_IFDIR | 0o755, path, b"")

    def file(self, path, content, mode=0o755):
        """Adds a file of these bytes."""
        path = path.strip("/")
        if path not in self._seen:
            self.folder(os.path.dirname(path))
            self._entry(stat.S_IFREG | mode, path, content)

    def copy(self, source, path):
        """Adds a copy of a file of this machine."""
        with open(source, "rb") as file:
            self.file(path, file.read(), 0o755 if os.access(source, os.X_OK) else 0o644)

    def program(self, source, path):
        """Adds a copy of a program, and the libraries that it loads, where it looks for them."""
        self.copy(source, path)
        for library in libraries(source):
            self.copy(library, library)

    def close(self):
        """Writes the end; the file stays open."""
        self._entry(0, "TRAILER!!!", b"")


def libraries(program):
    """The shared libraries of a program and its loader; none for what is static or no program."""
    with open(program, "rb") as file:
        if file.read(4) != b"\x7fELF":
            return []
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    missing = re.findall(r"^\s*(\S+) => not found", listed, re.MULTILINE)
    if missing:
        raise FileNotFoundError(f"{program} needs {' '.join(missing)}")
    return re.findall(r"(/\S+) \(0x", listed)
