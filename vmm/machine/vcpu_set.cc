#include "vmm/machine/vcpu_set.h"

#include "libcpr/base/status_macros.h"

namespace cpr {

absl::StatusOr<VcpuSet> VcpuSet::Create(std::vector<kvm::Vcpu> vcpus, VcpuExits* exits) {
  std::vector<std::unique_ptr<VcpuThread>> threads;
  for (kvm::Vcpu& vcpu : vcpus) {
    CPR_ASSIGN_OR_RETURN(threads.emplace_back(), VcpuThread::Create(std::move(vcpu), exits));
  }
  return VcpuSet(std::move(threads));
}

void VcpuSet::Start() {
  for (const auto& thread : threads_) thread->Start();
}

void VcpuSet::RequestPark() {
  for (const auto& thread : threads_) thread->RequestPark();
}

void VcpuSet::Park() {
  RequestPark();
  for (const auto& thread : threads_) thread->AwaitParked();
}

void VcpuSet::RunOnThreads(size_t count, absl::FunctionRef<void(size_t)> task) {
  if (count == 1) return task(0);
  for (size_t i = 0; i < count; ++i) {
    threads_[i]->Submit([task, i](kvm::Vcpu&) { task(i); });
  }
  for (size_t i = 0; i < count; ++i) threads_[i]->AwaitWork();
}

std::vector<kvm::Vcpu*> VcpuSet::vcpus() {
  std::vector<kvm::Vcpu*> vcpus;
  for (const auto& thread : threads_) vcpus.push_back(&thread->vcpu());
  return vcpus;
}

std::vector<pid_t> VcpuSet::thread_ids() const {
  std::vector<pid_t> ids;
  for (const auto& thread : threads_) ids.push_back(thread->thread_id());
  return ids;
}

}  // namespace cpr
