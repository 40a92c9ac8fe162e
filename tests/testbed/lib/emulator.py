"""Runs an emulated host: QEMU's command line, its console, its verdict and its end."""

import dataclasses
import os
import pathlib
import re
import selectors
import subprocess
import time

# The TSC is the machine's own, but the clocks that Linux would compare it with are late whenever this machine is busy: it
# must not be given up for that. Nor may Linux panic at boot because the first ticks of its timer are late
# (no_timer_check). QEMU does not say that the TSC's rate is constant, without which guests lose their ticks when this
# machine is busy (docs/testbed.md).
_KERNEL_WORDS = ("console=ttyS0", "panic=-1", "quiet", "kvm.report_ignored_msrs=0", "tsc=reliable", "no_timer_check",
                 "setcpuid=constant_tsc", "intel_iommu=on", "kho=on", "liveupdate=on")
_UNITS = {"M": 1 << 20, "G": 1 << 30}
# The DIMM keeps its namespace's description here: the least that there may be, since Linux reads all of it, by 9 s for
# 16 MiB. What is left must be a multiple of 16 MiB.
_NVDIMM_LABEL = 128 << 10


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a host ended: pass, fail or skip, and why."""

    kind: str
    why: str = ""


def size_bytes(size):
    """528M in bytes."""
    return int(size[:-1]) * _UNITS[size[-1]]


def _sparse(path, size):
    with open(path, "wb") as file:
        file.truncate(size)
    return str(path)


def qemu_program(debian):
    """QEMU of the Debian root, started with that root's loader and libraries: this machine's would not fit.

    Not by chroot: it has to see this machine's files. It does not outlive this process, however that ends.
    """
    folders = [f"{debian}/lib/x86_64-linux-gnu", f"{debian}/usr/lib/x86_64-linux-gnu"]
    return [
        "setpriv", "--pdeathsig", "KILL", "env", f"QEMU_MODULE_DIR={folders[1]}/qemu",
        f"{debian}/lib64/ld-linux-x86-64.so.2", "--library-path", ":".join(folders),
        f"{debian}/usr/bin/qemu-system-x86_64", "-L", f"{debian}/usr/share/qemu", "-L", f"{debian}/usr/share/seabios",
    ]


def _share(tag, path, options=""):
    return ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{options}"]


def _nvdimm(size, folder):
    total = size_bytes(size) + _NVDIMM_LABEL
    image = _sparse(folder / "nvdimm", total)
    return ["-object", f"memory-backend-file,id=nv0,share=on,mem-path={image},size={total}",
            "-device", f"nvdimm,memdev=nv0,label-size={_NVDIMM_LABEL}"]


def _nvme(sizes, one_slot, folder):
    words = []
    for number, size in enumerate(sizes):
        image = _sparse(folder / f"nvme{number}", size_bytes(size))
        place = f",addr=0x10.{number},multifunction=on" if one_slot else ""
        words += ["-drive", f"if=none,id=d{number},file={image},format=raw",
                  "-device", f"nvme,drive=d{number},serial=x{number}{place}"]
    return words


# By virtio, which flushes what has to be on the disk at once: QEMU's nvme takes no notice of FUA (docs/testbed.md).
def _logged(size, folder):
    image = _sparse(folder / "logged", size_bytes(size))
    log = _sparse(folder / "share/writes", 0)
    return ["-blockdev", f"raw,node-name=logged0,file.driver=file,file.filename={image}",
            "-blockdev", f"file,node-name=writes0,filename={log}",
            "-blockdev", "blklogwrites,node-name=d,file=logged0,log=writes0,log-super-update-interval=1",
            "-device", "virtio-blk-pci,drive=d"]


def _e1000e():
    words = []
    for number, device in enumerate(("e1000e", "virtio-net-pci")):
        words += ["-netdev", f"hubport,id=n{number},hubid=0", "-device", f"{device},netdev=n{number},romfile="]
    return words


def command(scenario, debian, kernel, folder):
    """QEMU's command line. Its console is stdout; what PID 1 alone writes, the second serial port, is folder/verdict.
    folder/monitor is a socket to ask a host that hangs; folder/resets tells whether a triple fault ended it.

    One CPU more than the scenario has: host/init keeps the first one free of guests (docs/testbed.md has the reason).
    Intel's IOMMU beside an AMD-like processor: with QEMU's AMD one, an nvme's interrupts never arrive.
    """
    memory = scenario.memory
    if scenario.nvdimm:
        memory += f",slots=2,maxmem={size_bytes(scenario.memory) + (4 << 30)}"
    words = [
        *qemu_program(debian), "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(scenario.cpus + 1), "-m", memory,
        "-M", "q35,kernel-irqchip=split" + (",nvdimm=on" if scenario.nvdimm else ""),
        "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-serial", f"file:{folder}/verdict",
        "-monitor", f"unix:{folder}/monitor,server=on,wait=off", "-d", "cpu_reset", "-D", f"{folder}/resets",
        "-device", "intel-iommu,intremap=on,caching-mode=on",
        *_share("share", folder / "share"), *_share("debian", debian, ",readonly=on"),
    ]
    words += _nvdimm(scenario.nvdimm, folder) if scenario.nvdimm else []
    words += _nvme(scenario.nvme, scenario.one_slot, folder)
    words += _logged(scenario.logged, folder) if scenario.logged else []
    words += ["-device", "edu"] if scenario.edu else []
    words += _e1000e() if scenario.e1000e else []
    return words + [
        "-kernel", str(kernel), "-initrd", str(folder / "share/initrd"),
        "-append", " ".join(_KERNEL_WORDS),
    ]


def read_verdict(text):
    """The verdict in what PID 1 wrote to the second serial port, or None: one line `pass`, `fail WHY` or `skip WHY`."""
    found = re.findall(r"^(pass|fail|skip)(?: ([^\r\n]*))?\r?$", text, re.MULTILINE)
    return Verdict(*found[-1]) if found else None


def _copy_console(process, log, echo, deadline):
    """Copies until the console is closed. False: the deadline came first."""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0, deadline - time.monotonic())):
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                return True
            log.write(data)
            log.flush()
            if echo:
                echo.write(data)
                echo.flush()
    return False


def run(words, folder, seconds, echo=None):
    """Runs a host to its end and returns its verdict. `echo`: a binary stream that gets the console too."""
    folder = pathlib.Path(folder)
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            ended = _copy_console(process, log, echo, time.monotonic() + seconds)
            if ended:
                process.wait(timeout=60)
        finally:
            process.kill()
            status = process.wait()
    path = folder / "verdict"
    verdict = read_verdict(path.read_text(errors="replace")) if path.exists() else None
    if verdict:
        return verdict
    if not ended:
        return Verdict("fail", f"no verdict after {seconds} s: the host was killed")
    return Verdict("fail", f"the host ended without a verdict (QEMU's exit status {status})")
