#ifndef LIBCPR_MODES_VM_H_
#define LIBCPR_MODES_VM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "libcpr/memory/ram_block.h"
#include "libcpr/modes/phase.h"
#include "libcpr/preserve/fd_table.h"
#include "libcpr/vmstate/section.h"

// What an embedder implements so that its guest can change hands. All calls come on the thread that calls
// Outgoing::Advance or Incoming::Advance; none may be called back into them.

namespace cpr {

// What makes up a guest: its RAM, the fds that must outlive this process, and the sections of its state.
struct Inventory {
  std::vector<RamBlock> blocks;
  // Outgoing: where each block is mapped in this process (lent), by the block's index. Only cpr-reboot reads it, of
  // blocks that it has to copy.
  std::vector<uint8_t*> mapped;
  FdTable fds;
  SectionRegistry sections;
};

// The guest as its present VMM offers it.
class OutgoingVm {
 public:
  virtual ~OutgoingVm() = default;

  // check: why this guest cannot go by `mode` now, in the user's words; empty if nothing speaks against it.
  virtual std::vector<std::string> Blockers(Mode mode) = 0;

  // check, the guest runs: fills in what the guest is made of. Fds are duplicates. Early sections must not change
  // from here to the end of the handover. Once for each handover.
  virtual absl::Status Describe(Mode mode, Inventory& inventory) = 0;

  // stop: vCPUs out of KVM_RUN, pending I/O completed, backends quiet, irqfds detached. On error everything runs again.
  virtual absl::Status Pause() = 0;

  // Roll-back after a successful Pause: the guest goes on here, in the state it had (running or not).
  virtual void Resume() = 0;

  // The guest is another's now (or lies in its state file): never run it again, let go of what it holds.
  virtual void Release() = 0;
};

// The guest as its next VMM receives it.
class IncomingVm {
 public:
  virtual ~IncomingVm() = default;

  // The sections that this program reads, by name, with the newest version that it knows.
  virtual std::vector<SectionSupport> Supported() = 0;

  // Registers the early sections, whose load functions get the machine's description.
  virtual absl::Status RegisterEarly(SectionRegistry& sections) = 0;

  // prepare: everything early has been loaded. Builds the machine on `arrived`'s RAM and fds (taking what it needs),
  // up to vCPU threads that wait, and registers the late sections in `arrived.sections`.
  virtual absl::Status Build(Inventory& arrived) = 0;

  // resume: the guest is ours, all sections are applied. Starts the vCPUs (or not, if the guest was paused by its
  // user).
  virtual void Run() = 0;
};

}  // namespace cpr

#endif  // LIBCPR_MODES_VM_H_
