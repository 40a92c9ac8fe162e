#ifndef VMM_BOOT_PVH_H_
#define VMM_BOOT_PVH_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "libcpr/kvm/uapi.h"

// Direct boot of an ELF kernel by the PVH protocol: the kernel says in an ELF note (XEN_ELFNOTE_PHYS32_ENTRY) where it
// is to be entered, in 32-bit protected mode, with EBX holding the address of a struct hvm_start_info.
// Protocol: Xen's docs/misc/pvh.pandoc; struct layouts: public/arch-x86/hvm/start_info.h.

namespace cpr {

// The `size_bytes` of guest RAM at `gpa` as host memory, or an error when they are not RAM, or not contiguous there.
// The span is lent and stays valid as long as the guest's RAM does.
using GuestRam = std::function<absl::StatusOr<absl::Span<uint8_t>>(uint64_t gpa, uint64_t size_bytes)>;

struct RamRange {
  uint64_t gpa = 0;
  uint64_t size_bytes = 0;
};

// What to boot. File contents are lent for the call; the names are what errors say.
struct PvhBoot {
  std::string kernel_name;
  absl::string_view kernel;
  std::string cmdline;      // at most kMaxCmdlineBytes, without NUL
  std::string initrd_name;  // empty: no initrd
  absl::string_view initrd;
  std::vector<RamRange> ram;  // the guest's RAM, lowest first; becomes the guest's memory map
};

// Where the guest begins.
struct PvhEntry {
  uint64_t entry_gpa = 0;
  uint64_t start_info_gpa = 0;
};

constexpr uint64_t kMaxCmdlineBytes = 4096;
// start_info, module list, memory map and command line: one block in low memory, below any kernel's load address.
constexpr uint64_t kStartInfoGpa = 0x6000;

// Loads kernel and initrd, builds hvm_start_info beside them and says where to enter. Any content of the files is
// met by an error, never a crash; RAM may be partly written then.
// kInvalidArgument: "kernel 'NAME': reason" for a kernel that is no PVH ELF, is cut or contradicts itself, and for a
// command line too long. kOutOfRange: something does not fit the guest's RAM. Errors of `guest_ram` are passed on.
absl::StatusOr<PvhEntry> LoadPvh(const PvhBoot& boot, const GuestRam& guest_ram);

// Sets the registers of the boot vCPU for `entry`: flat 32-bit protected mode, paging off, EBX = start_info. `sregs`
// must hold what KVM_GET_SREGS gave, since APIC base and the like are kept. Source: pvh.pandoc, "initial state".
void FillPvhRegisters(const PvhEntry& entry, kvm_regs* regs, kvm_sregs* sregs);

// Reads a kernel or initrd of at most `limit_bytes`. The error names `path`.
absl::StatusOr<std::string> ReadBootFile(const std::string& path, uint64_t limit_bytes = uint64_t{1} << 30);

}  // namespace cpr

#endif  // VMM_BOOT_PVH_H_
