#include "vmm/machine/guest_sections.h"

#include <memory>
#include <utility>

#include "libcpr/base/status_macros.h"
#include "libcpr/kvm/sections.h"
#include "libcpr/vmstate/proto_section.h"
#include "vmm/chardev/chardev_state.h"
#include "vmm/devices/acpi_pm_state.h"
#include "vmm/devices/cmos_state.h"
#include "vmm/devices/ioapic_state.h"
#include "vmm/devices/reset_control_state.h"
#include "vmm/devices/serial_state.h"
#include "vmm/pci/pci_state.h"
#include "vmm/virtio/device_set.h"

namespace cpr {
namespace {

constexpr char kMachine[] = "machine", kIoapic[] = "ioapic", kSerial[] = "serial", kChardev[] = "serial-chardev",
               kCmos[] = "cmos", kReset[] = "reset-control", kAcpiPm[] = "acpi-pm", kPciHost[] = "pci-host",
               kPciFunction[] = "pci-function", kVfio[] = "vfio";
constexpr uint32_t kVersion = 1;

SectionInfo InfoOf(const char* name, Stage stage) { return {.name = name, .version = kVersion, .stage = stage}; }

// A device with Save() and Restore(state), and its conversion.
template <typename Proto, typename State, typename Device>
Section DeviceSection(const char* name, Device* device, Proto (*to_proto)(const State&),
                      absl::StatusOr<State> (*from_proto)(const Proto&)) {
  auto staged = std::make_shared<State>();
  return ProtoSection<Proto>(
      InfoOf(name, Stage::kLate),
      [=](Proto* proto) {
        *proto = to_proto(device->Save());
        return absl::OkStatus();
      },
      [=](const Proto& proto) -> absl::Status {
        CPR_ASSIGN_OR_RETURN(*staged, from_proto(proto));
        return absl::OkStatus();
      },
      [=] { return device->Restore(*staged); });
}

// The machine's KVM part; its vCPUs are saved and restored on their threads.
kvm::GuestParts KvmPartsOf(Machine* machine) {
  return {.system = &machine->system(),
          .vm = &machine->vm(),
          .vcpus = machine->vcpus().vcpus(),
          .routes = &machine->platform().routes(),
          .config = &machine->kvm_plan(),
          .run = [machine](size_t count, absl::FunctionRef<void(size_t)> task) {
            machine->vcpus().RunOnThreads(count, task);
          }};
}

// A PCI function; its slot is the section's instance.
Section PciFunctionSection(PciHost* host, uint32_t slot) {
  auto staged = std::make_shared<PciFunctionState>();
  SectionInfo info = InfoOf(kPciFunction, Stage::kLate);
  info.instance = slot;
  return ProtoSection<v1::PciFunctionState>(
      info,
      [=](v1::PciFunctionState* proto) {
        *proto = PciFunctionStateToProto(host->function(slot)->Save());
        return absl::OkStatus();
      },
      [=](const v1::PciFunctionState& proto) -> absl::Status {
        CPR_ASSIGN_OR_RETURN(*staged, PciFunctionStateFromProto(proto));
        return absl::OkStatus();
      },
      [=] { return host->RestoreFunction(slot, *staged); });
}

absl::Status AddPci(PciHost& host, SectionRegistry& sections) {
  CPR_RETURN_IF_ERROR(sections.Add(DeviceSection(kPciHost, &host, &PciHostStateToProto, &PciHostStateFromProto)));
  for (uint32_t slot = 0; slot < kPciSlots; ++slot) {
    if (host.function(slot) != nullptr) CPR_RETURN_IF_ERROR(sections.Add(PciFunctionSection(&host, slot)));
  }
  return absl::OkStatus();
}

absl::Status AddDevices(Machine* machine, SectionRegistry& sections) {
  Platform& platform = machine->platform();
  if (platform.ioapic() != nullptr) {
    CPR_RETURN_IF_ERROR(
        sections.Add(DeviceSection(kIoapic, platform.ioapic(), &IoapicStateToProto, &IoapicStateFromProto)));
  }
  if (platform.serial() != nullptr) {
    CPR_RETURN_IF_ERROR(
        sections.Add(DeviceSection(kSerial, platform.serial(), &SerialStateToProto, &SerialStateFromProto)));
    CPR_RETURN_IF_ERROR(
        sections.Add(DeviceSection(kChardev, machine->serial(), &ChardevStateToProto, &ChardevStateFromProto)));
  }
  CPR_RETURN_IF_ERROR(sections.Add(DeviceSection(kCmos, &platform.cmos(), &CmosStateToProto, &CmosStateFromProto)));
  CPR_RETURN_IF_ERROR(sections.Add(
      DeviceSection(kReset, &platform.reset_control(), &ResetControlStateToProto, &ResetControlStateFromProto)));
  CPR_RETURN_IF_ERROR(
      sections.Add(DeviceSection(kAcpiPm, &platform.acpi_pm(), &AcpiPmStateToProto, &AcpiPmStateFromProto)));
  CPR_RETURN_IF_ERROR(AddPci(platform.pci(), sections));
  return platform.devices() == nullptr ? absl::OkStatus() : platform.devices()->AddSections(sections);
}

absl::Status AddVfioSection(EarlyState* state, SectionRegistry& sections) {
  SectionInfo info = InfoOf(kVfio, Stage::kEarly);
  info.optional = !state->vfio.has_value();  // for who does not know yet what arrives
  return sections.Add(ProtoSection<v1::VfioState>(
      info,
      [state](v1::VfioState* proto) {
        *proto = VfioStateToProto(*state->vfio);
        return absl::OkStatus();
      },
      [state](const v1::VfioState& proto) -> absl::Status {
        CPR_ASSIGN_OR_RETURN(state->vfio, VfioStateFromProto(proto));
        return absl::OkStatus();
      }));
}

}  // namespace

std::vector<SectionSupport> GuestSectionSupport() {
  std::vector<SectionSupport> support = kvm::KvmSectionSupport();
  for (const char* name :
       {kMachine, kIoapic, kSerial, kChardev, kCmos, kReset, kAcpiPm, kPciHost, kPciFunction, kVfio}) {
    support.push_back({name, kVersion});
  }
  for (SectionSupport& device : VirtioDeviceSet::Support()) support.push_back(std::move(device));
  return support;
}

absl::Status AddEarlySections(EarlyState* state, bool incoming, SectionRegistry& sections) {
  CPR_RETURN_IF_ERROR(sections.Add(ProtoSection<v1::MachineDescription>(
      InfoOf(kMachine, Stage::kEarly),
      [state](v1::MachineDescription* proto) {
        *proto = MachineDescriptionToProto(state->description);
        return absl::OkStatus();
      },
      [state](const v1::MachineDescription& proto) -> absl::Status {
        CPR_ASSIGN_OR_RETURN(state->description, MachineDescriptionFromProto(proto));
        return absl::OkStatus();
      })));
  if (incoming || state->vfio.has_value()) CPR_RETURN_IF_ERROR(AddVfioSection(state, sections));
  return kvm::AddConfigSection(&state->kvm, sections);
}

absl::Status AddLateSections(Machine* machine, kvm::VcpuSavePlan plan, SectionRegistry& sections) {
  CPR_RETURN_IF_ERROR(kvm::AddStateSections(KvmPartsOf(machine), std::move(plan), sections));
  return AddDevices(machine, sections);
}

}  // namespace cpr
