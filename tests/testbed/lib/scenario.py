"""What a scenario is and needs, read from the first lines of its file.

    # The clock survives a kexec.
    #: files vmm/cpr-vmm tests/guest/payload.elf
    #: nvdimm 528M

The first comment says what it shows; a line `#: WORD VALUE...` says what it needs. FIELDS has the words.
"""

import dataclasses
import re


class BadScenario(Exception):
    """A scenario file that cannot be used, and why."""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One scenario. Sizes are QEMU's: 528M, 2G. A device whose size is empty is not there; there may be several nvme."""

    name: str
    path: str
    shows: str
    files: tuple = ()
    cpus: int = 2
    memory: str = "2G"
    nvdimm: str = ""
    nvme: tuple = ()
    logged: str = ""
    one_slot: bool = False
    edu: bool = False
    e1000e: bool = False
    seconds: int = 300
    by_name: bool = False

    def labels(self):
        """The Bazel targets that make its files."""
        return ["//{}:{}".format(*file.rpartition("/")[::2]) for file in self.files]


def _size(words):
    if len(words) != 1 or not re.fullmatch(r"[1-9][0-9]*[MG]", words[0]):
        raise ValueError("takes one size, like 528M or 2G")
    return words[0]


def _sizes(words):
    if not words:
        raise ValueError("takes sizes, like 528M or 2G")
    return tuple(_size([word]) for word in words)


def _number(words):
    if len(words) != 1 or not re.fullmatch(r"[1-9][0-9]*", words[0]):
        raise ValueError("takes one number above 0")
    return int(words[0])


def _nothing(words):
    if words:
        raise ValueError("takes nothing")
    return True


def _paths(words):
    if not words:
        raise ValueError("takes the paths of built files, like vmm/cpr-vmm")
    return tuple(words)


FIELDS = {
    "files": _paths,  # what Bazel builds of this checkout, found in the host below /checkout by the same path
    "cpus": _number,  # that it and its guests run on
    "memory": _size,
    "nvdimm": _size,  # a persistent-memory DIMM, less its label; `dax_device` makes a DAX device of it
    "nvme": _sizes,  # an empty disk each, in the order of their PCI addresses: /dev/nvme0n1 if there is one
    "logged": _size,  # a disk, /dev/vda, all writes to which are logged in /share/writes (tests/disk_log)
    "one_slot": _nothing,  # those disks are functions of one slot, and so of one group of the IOMMU
    "edu": _nothing,  # QEMU's teaching device, 1234:11e8
    "e1000e": _nothing,  # a network card, with a cable to a virtio one: one for a guest, the other for the host
    "seconds": _number,  # after which the host is taken for hung
    "by_name": _nothing,  # not among --all: it measures, which wants a machine to itself
}


def parse(name, path, text):
    """The scenario in a file's text. Raises BadScenario."""
    shows, fields = "", {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("#"):
            break
        if not line.startswith("#:"):
            shows = shows or line.lstrip("#! ").strip()
            continue
        word, *values = line[2:].split()[:1] + line[2:].split()[1:] or [""]
        if word not in FIELDS:
            raise BadScenario(f"{path}:{number}: '{word}' is none of: {' '.join(FIELDS)}")
        try:
            value = FIELDS[word](values)
        except ValueError as error:
            raise BadScenario(f"{path}:{number}: {word} {error}") from error
        # What it needs may take several lines.
        fields[word] = fields.get(word, ()) + value if word == "files" else value
    if not shows:
        raise BadScenario(f"{path}:1: begins with no comment that says what it shows")
    return Scenario(name=name, path=path, shows=shows, **fields)
