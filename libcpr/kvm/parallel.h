#ifndef LIBCPR_KVM_PARALLEL_H_
#define LIBCPR_KVM_PARALLEL_H_

#include <cstddef>
#include <functional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/kvm/vcpu_state.h"

namespace cpr::kvm {

// Runs task(i) once for each i in [0, count), at the same time where it can, and returns when all have returned. The
// embedder's parked vCPU threads do it best: task(i) on the thread of vCPU i. No thread is made in the pause.
using VcpuExecutor = std::function<void(size_t count, absl::FunctionRef<void(size_t)> task)>;

// The plain one: one after the other, in the caller's thread.
void RunInCaller(size_t count, absl::FunctionRef<void(size_t)> task);

// SaveVcpu and RestoreVcpu of all vCPUs of a VM through `run`. states[i] belongs to vcpus[i]; the error of the lowest i
// is returned. RestoreVcpus: kInvalidArgument, with nothing touched, when counts or ids differ; each vCPU is told that
// it was stopped, too (NotifyGuestStopped).
absl::StatusOr<std::vector<VcpuState>> SaveVcpus(absl::Span<const Vcpu* const> vcpus, const VcpuSavePlan& plan,
                                                 const VcpuExecutor& run = RunInCaller);
absl::Status RestoreVcpus(absl::Span<Vcpu* const> vcpus, absl::Span<const VcpuState> states, const HostCaps& caps,
                          const VcpuExecutor& run = RunInCaller);

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_PARALLEL_H_
