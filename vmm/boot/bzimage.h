#ifndef VMM_BOOT_BZIMAGE_H_
#define VMM_BOOT_BZIMAGE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/kvm/uapi.h"
#include "vmm/boot/boot_request.h"

// Direct boot of a Linux bzImage by the 64-bit boot protocol: entered in long mode, with RSI holding the address of the
// zero page (struct boot_params). Source: Linux, Documentation/arch/x86/boot.rst and zero-page.rst.

namespace cpr {

// Where the guest begins. The zero page and all that belongs to it lie in low memory.
struct BzImageEntry {
  uint64_t entry_gpa = 0;
  uint64_t zero_page_gpa = 0;
  uint64_t page_tables_gpa = 0;  // identity map of the first 4 GiB
};

// Has `kernel` the boot sector of a Linux kernel image? Then LoadBzImage is to say whether it can be booted.
bool IsLinuxImage(absl::string_view kernel);

// Loads kernel and initrd, builds the zero page and says where to enter. Any content of the files is met by an error,
// never a crash; RAM may be partly written then. Errors say "kernel 'NAME': reason".
// kInvalidArgument: no bzImage, a cut one, one of an older boot protocol than 2.12, or without a 64-bit entry; a
// command line that is too long for it. kOutOfRange: something does not fit the guest's RAM. Errors of `guest_ram` are
// passed on.
absl::StatusOr<BzImageEntry> LoadBzImage(const BootRequest& request, const GuestRam& guest_ram);

// Sets the registers of the boot vCPU for `entry`: 64-bit mode, flat segments. `sregs` must hold what KVM_GET_SREGS
// gave, since APIC base and the like are kept.
void FillBzImageRegisters(const BzImageEntry& entry, kvm_regs* regs, kvm_sregs* sregs);

}  // namespace cpr

#endif  // VMM_BOOT_BZIMAGE_H_
