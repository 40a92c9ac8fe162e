#ifndef VMM_BOOT_PVH_H_
#define VMM_BOOT_PVH_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "libcpr/kvm/uapi.h"
#include "vmm/boot/boot_request.h"

// Direct boot of an ELF kernel by the PVH protocol: the kernel says in an ELF note (XEN_ELFNOTE_PHYS32_ENTRY) where it
// is to be entered, in 32-bit protected mode, with EBX holding the address of a struct hvm_start_info.
// Protocol: Xen's docs/misc/pvh.pandoc; struct layouts: public/arch-x86/hvm/start_info.h.

namespace cpr {

// Where the guest begins.
struct PvhEntry {
  uint64_t entry_gpa = 0;
  uint64_t start_info_gpa = 0;
};

// start_info, module list, memory map and command line: one block in low memory, below any kernel's load address.
constexpr uint64_t kStartInfoGpa = 0x6000;

// Loads kernel and initrd, builds hvm_start_info beside them and says where to enter. Any content of the files is
// met by an error, never a crash; RAM may be partly written then.
// kInvalidArgument: "kernel 'NAME': reason" for a kernel that is no PVH ELF, is cut or contradicts itself, and for a
// command line too long. kOutOfRange: something does not fit the guest's RAM. Errors of `guest_ram` are passed on.
absl::StatusOr<PvhEntry> LoadPvh(const BootRequest& boot, const GuestRam& guest_ram);

// Sets the registers of the boot vCPU for `entry`: flat 32-bit protected mode, paging off, EBX = start_info. `sregs`
// must hold what KVM_GET_SREGS gave, since APIC base and the like are kept. Source: pvh.pandoc, "initial state".
void FillPvhRegisters(const PvhEntry& entry, kvm_regs* regs, kvm_sregs* sregs);

}  // namespace cpr

#endif  // VMM_BOOT_PVH_H_
