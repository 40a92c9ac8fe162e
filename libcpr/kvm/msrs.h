#ifndef LIBCPR_KVM_MSRS_H_
#define LIBCPR_KVM_MSRS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/kvm/system.h"
#include "libcpr/kvm/vcpu.h"

namespace cpr::kvm {

// MSRs that the order of saving and restoring turns on (Intel SDM volume 4).
inline constexpr uint32_t kMsrTsc = 0x10;
inline constexpr uint32_t kMsrTscDeadline = 0x6e0;

// The MSRs that make up `probe`'s state, in the order in which to save and restore them: KVM_GET_MSR_INDEX_LIST, kvm's
// own, the MTRRs and the machine-check banks, as far as `probe` can read them, and TSC_DEADLINE last. Without the TSC,
// which travels as an offset, and without second names of the same MSR. Reads each once: call it before the pause, on a
// vCPU that has its CPUID. `probe` must not be running.
absl::StatusOr<std::vector<uint32_t>> StateMsrs(const System& system, const Vcpu& probe);

// Reads `indices` in order by as few ioctls as can be: those that cannot be read are left out of the result.
absl::StatusOr<std::vector<kvm_msr_entry>> SaveMsrs(const Vcpu& vcpu, absl::Span<const uint32_t> indices);

// Writes `msrs` in order, except that TSC_DEADLINE comes last. A deadline of 0 is not written: it would take back a
// tick that is due (KVM_SET_LAPIC has zeroed it anyway). A refused 0 is passed over: the vCPU has no such MSR, and had
// none. Any other refusal is an error that names the MSR and its value. kInvalidArgument: `msrs` holds the TSC.
absl::Status RestoreMsrs(Vcpu& vcpu, absl::Span<const kvm_msr_entry> msrs);

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_MSRS_H_
