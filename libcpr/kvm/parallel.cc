#include "libcpr/kvm/parallel.h"

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"

namespace cpr::kvm {
namespace {

absl::Status CheckIds(absl::Span<Vcpu* const> vcpus, absl::Span<const VcpuState> states) {
  if (vcpus.size() != states.size()) {
    return absl::InvalidArgumentError(absl::StrCat("state of ", states.size(), " vCPUs for a VM of ", vcpus.size()));
  }
  for (size_t i = 0; i < vcpus.size(); ++i) {
    if (vcpus[i]->id() == states[i].id) continue;
    return absl::InvalidArgumentError(absl::StrCat("state of vCPU ", states[i].id, " for vCPU ", vcpus[i]->id()));
  }
  return absl::OkStatus();
}

}  // namespace

void RunInCaller(size_t count, absl::FunctionRef<void(size_t)> task) {
  for (size_t i = 0; i < count; ++i) task(i);
}

absl::StatusOr<std::vector<VcpuState>> SaveVcpus(absl::Span<const Vcpu* const> vcpus, const VcpuSavePlan& plan,
                                                 const VcpuExecutor& run) {
  std::vector<absl::StatusOr<VcpuState>> results(vcpus.size());
  run(vcpus.size(), [&](size_t i) { results[i] = SaveVcpu(*vcpus[i], plan); });
  std::vector<VcpuState> states;
  states.reserve(results.size());
  for (auto& result : results) {
    if (!result.ok()) return result.status();
    states.push_back(*std::move(result));
  }
  return states;
}

absl::Status RestoreVcpus(absl::Span<Vcpu* const> vcpus, absl::Span<const VcpuState> states, const HostCaps& caps,
                          const VcpuExecutor& run) {
  CPR_RETURN_IF_ERROR(CheckIds(vcpus, states));
  std::vector<absl::Status> results(vcpus.size());
  run(vcpus.size(), [&](size_t i) {
    results[i] = RestoreVcpu(*vcpus[i], states[i], caps);
    if (results[i].ok()) results[i] = NotifyGuestStopped(*vcpus[i]);
  });
  for (const absl::Status& result : results) CPR_RETURN_IF_ERROR(result);
  return absl::OkStatus();
}

}  // namespace cpr::kvm
