// How a machine's guest sleeps (ACPI S3) and wakes.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/acpi/tables.h"
#include "vmm/machine/machine.h"

namespace cpr {
namespace {

constexpr uint32_t kRealModeLimit = 1 << 20;

}  // namespace

absl::StatusOr<uint32_t> Machine::WakingVector() const {
  CPR_ASSIGN_OR_RETURN(const absl::Span<uint8_t> field, memory_.At(kAcpiFacsGpa + kFacsWakingVectorOffset, 4));
  uint32_t vector;
  std::memcpy(&vector, field.data(), sizeof(vector));
  if (vector != 0 && vector < kRealModeLimit) return vector;
  return absl::FailedPreconditionError(
      absl::StrCat("the guest cannot wake: its waking vector is 0x", absl::Hex(vector)));
}

absl::Status Machine::Wakeup() {
  Pause();
  CPR_ASSIGN_OR_RETURN(const uint32_t vector, WakingVector());
  CPR_RETURN_IF_ERROR(Annotate(ResetAllButRam(), "wakeup"));
  platform_->acpi_pm().SetWakeStatus();
  // As a PC's firmware does it: vCPU 0 jumps to the vector in real mode, everything else is as after a reset.
  kvm::Vcpu& vcpu = *vcpus_->vcpus().front();
  CPR_ASSIGN_OR_RETURN(kvm_sregs sregs, vcpu.Sregs());
  sregs.cs.selector = static_cast<uint16_t>(vector >> 4);
  sregs.cs.base = vector & ~15u;
  CPR_RETURN_IF_ERROR(vcpu.SetSregs(sregs));
  kvm_regs regs = {};
  regs.rip = vector & 15;
  regs.rflags = 2;
  return vcpu.SetRegs(regs);
}

}  // namespace cpr
