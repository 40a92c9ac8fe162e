#include "vmm/machine/guest_sections.h"

#include <fcntl.h>

#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/proto_fields.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/kvm/clock.h"
#include "libcpr/kvm/vcpu_state_proto.h"
#include "libcpr/kvm/vm_state_proto.h"
#include "libcpr/vmstate/proto_payload.h"
#include "vmm/chardev/chardev_state.h"
#include "vmm/devices/cmos_state.h"
#include "vmm/devices/ioapic_state.h"
#include "vmm/devices/reset_control_state.h"
#include "vmm/devices/serial_state.h"

namespace cpr {
namespace {

constexpr char kMachine[] = "machine", kKvm[] = "machine-kvm", kVcpu[] = "kvm-vcpu", kVm[] = "kvm-vm",
               kIoapic[] = "ioapic", kSerial[] = "serial", kChardev[] = "serial-chardev", kCmos[] = "cmos",
               kReset[] = "reset-control";
constexpr uint32_t kVersion = 1;
constexpr uint64_t kBootIdBytes = 64;

SectionInfo InfoOf(const char* name, Stage stage, uint32_t instance = 0) {
  return {.name = name, .instance = instance, .version = kVersion, .stage = stage};
}

// A section that is one message. `load` validates and stages.
template <typename Proto>
Section ProtoSection(SectionInfo info, std::function<absl::Status(Proto*)> save,
                     std::function<absl::Status(const Proto&)> load, std::function<absl::Status()> apply = nullptr) {
  Section section;
  section.info = std::move(info);
  section.save = [save](std::string* payload) -> absl::Status {
    Proto proto;
    CPR_RETURN_IF_ERROR(save(&proto));
    return EncodeProto(proto, payload);
  };
  section.load = [load](absl::string_view payload, uint32_t version) -> absl::Status {
    CPR_ASSIGN_OR_RETURN(const Proto proto, DecodeProto<Proto>(payload, version, kVersion));
    return load(proto);
  };
  section.apply = std::move(apply);
  return section;
}

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

// The KVM state of all vCPUs and the VM, staged between the sections that it is spread over.
class KvmSections : public std::enable_shared_from_this<KvmSections> {
 public:
  KvmSections(Machine* machine, const kvm::VcpuSavePlan* plan, std::string boot_id)
      : machine_(machine), plan_(plan), boot_id_(std::move(boot_id)), vcpus_(machine->kvm_plan().vcpus.size()) {}

  absl::Status AddTo(SectionRegistry& sections) {
    const auto self = shared_from_this();
    for (uint32_t i = 0; i < vcpus_.size(); ++i) {
      CPR_RETURN_IF_ERROR(sections.Add(ProtoSection<v1::VcpuX86State>(
          InfoOf(kVcpu, Stage::kLate, i),
          [self, i](v1::VcpuX86State* proto) -> absl::Status {
            if (i == 0) CPR_RETURN_IF_ERROR(self->Save());
            kvm::ToProto(self->vcpus_[i], proto);
            return absl::OkStatus();
          },
          [self, i](const v1::VcpuX86State& proto) -> absl::Status {
            CPR_ASSIGN_OR_RETURN(self->vcpus_[i], kvm::FromProto(proto));
            return absl::OkStatus();
          })));
    }
    return sections.Add(ProtoSection<v1::VmX86State>(
        InfoOf(kVm, Stage::kLate), [self](v1::VmX86State* proto) { return kvm::ToProto(self->vm_, proto); },
        [self](const v1::VmX86State& proto) -> absl::Status {
          CPR_ASSIGN_OR_RETURN(self->vm_, kvm::FromProto(proto));
          return absl::OkStatus();
        },
        [self] { return self->Restore(); }));
  }

 private:
  kvm::VcpuExecutor OnThreads() {
    return [this](size_t count, absl::FunctionRef<void(size_t)> task) { machine_->vcpus().RunOnThreads(count, task); };
  }

  absl::Status Save() {
    const KvmPlan& plan = machine_->kvm_plan();
    CPR_ASSIGN_OR_RETURN(vm_, kvm::SaveVm(machine_->vm(), plan.vm, machine_->platform().routes(),
                                          plan.vcpus.front().tsc_khz.value_or(0)));
    const std::vector<kvm::Vcpu*> vcpus = machine_->vcpus().vcpus();
    const std::vector<const kvm::Vcpu*> read(vcpus.begin(), vcpus.end());
    CPR_ASSIGN_OR_RETURN(vcpus_, kvm::SaveVcpus(read, *plan_, OnThreads()));
    return absl::OkStatus();
  }

  absl::Status Restore() {
    CPR_ASSIGN_OR_RETURN(const std::string here, HostBootId());
    const kvm::ClockRule rule = here == boot_id_ ? kvm::ClockRule::kSameKernel : kvm::ClockRule::kNewKernel;
    const kvm::HostCaps& caps = machine_->system().caps();
    CPR_ASSIGN_OR_RETURN(const uint64_t more, kvm::RestoreClock(machine_->vm(), vm_.clock, rule, caps));
    for (kvm::VcpuState& vcpu : vcpus_) vcpu.tsc_offset += more;
    CPR_RETURN_IF_ERROR(kvm::RestoreVcpus(machine_->vcpus().vcpus(), vcpus_, caps, OnThreads()));
    return kvm::RestoreVm(machine_->vm(), vm_, machine_->kvm_plan().vm, machine_->platform().routes());
  }

  Machine* const machine_;
  const kvm::VcpuSavePlan* const plan_;
  const std::string boot_id_;
  kvm::VmState vm_;
  std::vector<kvm::VcpuState> vcpus_;
};

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
  return sections.Add(
      DeviceSection(kReset, &platform.reset_control(), &ResetControlStateToProto, &ResetControlStateFromProto));
}

}  // namespace

absl::StatusOr<std::string> HostBootId() {
  CPR_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile("/proc/sys/kernel/random/boot_id", O_RDONLY));
  CPR_ASSIGN_OR_RETURN(const std::string text, ReadToEnd(file.get(), kBootIdBytes));
  return std::string(absl::StripAsciiWhitespace(text));
}

std::vector<SectionSupport> GuestSectionSupport() {
  std::vector<SectionSupport> support;
  for (const char* name : {kMachine, kKvm, kVcpu, kVm, kIoapic, kSerial, kChardev, kCmos, kReset}) {
    support.push_back({name, kVersion});
  }
  return support;
}

absl::Status AddEarlySections(EarlyState* state, SectionRegistry& sections) {
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
  CPR_RETURN_IF_ERROR(sections.Add(ProtoSection<v1::MachineKvm>(
      InfoOf(kKvm, Stage::kEarly),
      [state](v1::MachineKvm* proto) {
        kvm::ToProto(state->kvm.vm, proto->mutable_vm());
        for (const kvm::VcpuConfig& vcpu : state->kvm.vcpus) kvm::ToProto(vcpu, proto->add_vcpus());
        proto->set_host_boot_id(state->boot_id);
        return absl::OkStatus();
      },
      [state](const v1::MachineKvm& proto) -> absl::Status {
        CPR_ASSIGN_OR_RETURN(state->kvm.vm, kvm::FromProto(proto.vm()));
        state->kvm.vcpus.clear();
        for (const v1::VcpuX86Config& vcpu : proto.vcpus()) {
          CPR_ASSIGN_OR_RETURN(kvm::VcpuConfig config, kvm::FromProto(vcpu));
          if (config.id != state->kvm.vcpus.size()) return absl::DataLossError("MachineKvm: vCPU ids are not in order");
          state->kvm.vcpus.push_back(std::move(config));
        }
        if (state->kvm.vcpus.empty() || state->kvm.vcpus.size() > kMaxVcpus) {
          return absl::DataLossError(absl::StrCat("MachineKvm: ", state->kvm.vcpus.size(), " vCPUs"));
        }
        return TakeField(proto.has_host_boot_id(), proto.host_boot_id(), "host_boot_id", &state->boot_id);
      })));
  return absl::OkStatus();
}

absl::Status AddLateSections(Machine* machine, const kvm::VcpuSavePlan* plan, const std::string& boot_id,
                             SectionRegistry& sections) {
  CPR_RETURN_IF_ERROR(std::make_shared<KvmSections>(machine, plan, boot_id)->AddTo(sections));
  return AddDevices(machine, sections);
}

}  // namespace cpr
