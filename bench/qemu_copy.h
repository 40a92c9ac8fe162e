#ifndef BENCH_QEMU_COPY_H_
#define BENCH_QEMU_COPY_H_

#include <string>
#include <vector>

#include "bench/copy_ways.h"

// The same RAM saved and loaded by QEMU's cpr-reboot. Its guest has not begun (-S), so no KVM is needed.

namespace cpr {

// A program of QEMU 9.0 or later, and one of its formats of a file: its stream, or mapped-ram by several channels.
struct QemuCopy {
  std::vector<std::string> program;
  bool mapped_ram = false;
  int channels = 0;
  bool direct = false;
};

// From `migrate` until it is completed, and on the disk; from `migrate-incoming` until all has been read.
Measured QemuSave(CopyPlace place, uint64_t one_in, QemuCopy qemu);
Measured QemuLoad(CopyPlace place, uint64_t one_in, QemuCopy qemu);

}  // namespace cpr

#endif  // BENCH_QEMU_COPY_H_
