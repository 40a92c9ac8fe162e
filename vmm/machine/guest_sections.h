#ifndef VMM_MACHINE_GUEST_SECTIONS_H_
#define VMM_MACHINE_GUEST_SECTIONS_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "libcpr/vmstate/section.h"
#include "vmm/machine/kvm_plan.h"
#include "vmm/machine/machine.h"
#include "vmm/options/description.h"
#include "vmm/vfio/vfio_state.h"

// The sections that a machine's state is made of, for both sides of a handover.

namespace cpr {

// What the early sections say: enough to build the same machine. A plain value.
struct EarlyState {
  MachineDescription description;
  KvmPlan kvm;
  std::optional<VfioState> vfio;  // if the guest has devices of the host
};

// The names of all sections and the newest version known.
std::vector<SectionSupport> GuestSectionSupport();

// Early sections. Save: reads `state` then. Load (`incoming`): fills it, and validates. `state` must outlive the
// registry.
absl::Status AddEarlySections(EarlyState* state, bool incoming, SectionRegistry& sections);

// Late sections of the machine, both to save and to load. `machine` must outlive the registry, and be paused when they
// are used. `plan` is for saving alone.
absl::Status AddLateSections(Machine* machine, kvm::VcpuSavePlan plan, SectionRegistry& sections);

}  // namespace cpr

#endif  // VMM_MACHINE_GUEST_SECTIONS_H_
