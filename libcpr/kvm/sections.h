// The KVM part of a guest as sections: what an embedder registers beside its devices', on both sides of a handover.
//
//   early  "machine-kvm"                    how the VM and its vCPUs are built
//   late   "kvm-vcpu" 0, 1, ..., "kvm-vm"   what they are at
#ifndef LIBCPR_KVM_SECTIONS_H_
#define LIBCPR_KVM_SECTIONS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/kvm/gsi_routes.h"
#include "libcpr/kvm/parallel.h"
#include "libcpr/kvm/system.h"
#include "libcpr/kvm/vcpu_state.h"
#include "libcpr/kvm/vm_state.h"
#include "libcpr/vmstate/section.h"

namespace cpr::kvm {

// How a guest's VM and vCPUs are built: chosen once, when the guest is first started, and carried along ever after.
// A plain value.
struct GuestConfig {
  VmConfig vm;
  std::vector<VcpuConfig> vcpus;  // their ids are 0, 1, ...
  // Of a guest that came in: the boot id of the kernel on which it was saved.
  std::string host_boot_id = {};
};

// A guest's VM, built as its config says. Everything is lent and must outlive the sections.
struct GuestParts {
  const System* system = nullptr;
  Vm* vm = nullptr;
  std::vector<Vcpu*> vcpus;
  GsiRoutes* routes = nullptr;
  const GuestConfig* config = nullptr;
  VcpuExecutor run = RunInCaller;  // for saving and restoring the vCPUs
};

// The names of the sections and the newest versions known, for IncomingVm::Supported.
std::vector<SectionSupport> KvmSectionSupport();

// The early section. Save: writes `config` and this host's boot id. Load: fills `config`, validated; the number of
// vCPUs is for the embedder to judge. `config` must outlive the registry.
absl::Status AddConfigSection(GuestConfig* config, SectionRegistry& sections);

// The late sections, both to save and to load. Saving wants the vCPUs stopped, as SaveVm and SaveVcpu do; all of it is
// read at once, when the first section is saved. Restoring wants a new VM whose vCPUs have not run: everything is
// loaded before the first ioctl, then vCPUs, VM and clock are restored in that order (docs/ordering.md), the clock by
// the kernel that it was saved on. `plan` is for saving alone.
absl::Status AddStateSections(GuestParts guest, VcpuSavePlan plan, SectionRegistry& sections);

// Of the kernel that runs now: /proc/sys/kernel/random/boot_id.
absl::StatusOr<std::string> HostBootId();

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_SECTIONS_H_
