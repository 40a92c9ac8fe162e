#ifndef VMM_MACHINE_VCPU_SET_H_
#define VMM_MACHINE_VCPU_SET_H_

#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/kvm/vcpu.h"
#include "vmm/machine/vcpu_exits.h"
#include "vmm/machine/vcpu_thread.h"

namespace cpr {

// All vCPUs of a machine, each on its thread. Thread-safe as VcpuThread is.
class VcpuSet {
 public:
  // Starts a parked thread for each of `vcpus`. `exits` must outlive the set.
  static absl::StatusOr<VcpuSet> Create(std::vector<kvm::Vcpu> vcpus, VcpuExits* exits);

  size_t size() const { return threads_.size(); }
  void Start();
  // Makes all leave the guest soon; may be called on vCPU threads.
  void RequestPark();
  // Makes all leave the guest and waits for it. Not on vCPU threads.
  void Park();

  // Runs task(i) on the thread of vCPU i, all at once, and waits; in the caller if there is but one. All must be parked.
  // Not thread-safe.
  void RunOnThreads(size_t count, absl::FunctionRef<void(size_t)> task);
  // The vCPUs, for use while they are parked.
  std::vector<kvm::Vcpu*> vcpus();
  // As gettid says.
  std::vector<pid_t> thread_ids() const;

 private:
  explicit VcpuSet(std::vector<std::unique_ptr<VcpuThread>> threads) : threads_(std::move(threads)) {}

  std::vector<std::unique_ptr<VcpuThread>> threads_;
};

}  // namespace cpr

#endif  // VMM_MACHINE_VCPU_SET_H_
