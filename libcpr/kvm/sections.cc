#include "libcpr/kvm/sections.h"

#include <fcntl.h>

#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/proto_fields.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/kvm/clock.h"
#include "libcpr/kvm/vcpu_state_proto.h"
#include "libcpr/kvm/vm_state_proto.h"
#include "libcpr/vmstate/proto_section.h"

namespace cpr::kvm {
namespace {

constexpr char kConfigSection[] = "machine-kvm", kVcpuSection[] = "kvm-vcpu", kVmSection[] = "kvm-vm";
constexpr uint32_t kVersion = 1;
constexpr uint64_t kBootIdBytes = 64;

SectionInfo InfoOf(const char* name, Stage stage, uint32_t instance = 0) {
  return {.name = name, .instance = instance, .version = kVersion, .stage = stage};
}

// What the late sections share: the state, staged between the sections that it is spread over. They own it together.
class Staging {
 public:
  // `boot_id`: of the host, now.
  Staging(GuestParts guest, VcpuSavePlan plan, absl::string_view boot_id)
      : guest_(std::move(guest)),
        plan_(std::move(plan)),
        clock_rule_(boot_id == guest_.config->host_boot_id ? ClockRule::kSameKernel : ClockRule::kNewKernel),
        vcpus_(guest_.vcpus.size()) {}

  static absl::Status AddTo(SectionRegistry& sections, const std::shared_ptr<Staging>& self) {
    for (uint32_t i = 0; i < self->vcpus_.size(); ++i) {
      CPR_RETURN_IF_ERROR(sections.Add(ProtoSection<v1::VcpuX86State>(
          InfoOf(kVcpuSection, Stage::kLate, i),
          [self, i](v1::VcpuX86State* proto) { return self->SaveVcpu(i, proto); },
          [self, i](const v1::VcpuX86State& proto) -> absl::Status {
            CPR_ASSIGN_OR_RETURN(self->vcpus_[i], FromProto(proto));
            return absl::OkStatus();
          })));
    }
    return sections.Add(ProtoSection<v1::VmX86State>(
        InfoOf(kVmSection, Stage::kLate), [self](v1::VmX86State* proto) { return ToProto(self->vm_, proto); },
        [self](const v1::VmX86State& proto) -> absl::Status {
          CPR_ASSIGN_OR_RETURN(self->vm_, FromProto(proto));
          return absl::OkStatus();
        },
        [self] { return self->Restore(); }));
  }

 private:
  absl::Status SaveVcpu(uint32_t i, v1::VcpuX86State* proto) {
    if (i == 0) CPR_RETURN_IF_ERROR(SaveAll());
    ToProto(vcpus_[i], proto);
    return absl::OkStatus();
  }

  absl::Status SaveAll() {
    const GuestConfig& config = *guest_.config;
    CPR_ASSIGN_OR_RETURN(vm_, SaveVm(*guest_.vm, config.vm, *guest_.routes, config.vcpus.front().tsc_khz.value_or(0)));
    const std::vector<const Vcpu*> read(guest_.vcpus.begin(), guest_.vcpus.end());
    CPR_ASSIGN_OR_RETURN(vcpus_, SaveVcpus(read, plan_, guest_.run));
    return absl::OkStatus();
  }

  absl::Status Restore() {
    const HostCaps& caps = guest_.system->caps();
    if (clock_rule_ == ClockRule::kNewKernel) CPR_RETURN_IF_ERROR(MoveClockToThisKernel());
    CPR_RETURN_IF_ERROR(RestoreVcpus(guest_.vcpus, vcpus_, caps, guest_.run));
    CPR_RETURN_IF_ERROR(RestoreVm(*guest_.vm, vm_, guest_.config->vm, *guest_.routes));
    return RestoreClock(*guest_.vm, vm_.clock, ClockRule::kSameKernel, caps).status();
  }

  // The clock's state is then what it would be if it had been saved here, now.
  absl::Status MoveClockToThisKernel() {
    CPR_ASSIGN_OR_RETURN(const uint64_t more, RestoreClock(*guest_.vm, vm_.clock, clock_rule_, guest_.system->caps()));
    for (VcpuState& vcpu : vcpus_) vcpu.tsc_offset += more;
    CPR_ASSIGN_OR_RETURN(vm_.clock, SaveClock(*guest_.vm, vm_.clock.tsc_khz));
    vm_.clock.master_clock = true;  // the offsets tie it to the TSC, though KVM itself begins to with the first KVM_RUN
    return absl::OkStatus();
  }

  const GuestParts guest_;
  const VcpuSavePlan plan_;
  const ClockRule clock_rule_;
  VmState vm_;
  std::vector<VcpuState> vcpus_;
};

absl::Status ConfigToProto(const GuestConfig& config, v1::MachineKvm* proto) {
  ToProto(config.vm, proto->mutable_vm());
  for (const VcpuConfig& vcpu : config.vcpus) ToProto(vcpu, proto->add_vcpus());
  CPR_ASSIGN_OR_RETURN(*proto->mutable_host_boot_id(), HostBootId());
  return absl::OkStatus();
}

absl::StatusOr<GuestConfig> ConfigFromProto(const v1::MachineKvm& proto) {
  GuestConfig config;
  CPR_ASSIGN_OR_RETURN(config.vm, FromProto(proto.vm()));
  for (const v1::VcpuX86Config& vcpu_proto : proto.vcpus()) {
    CPR_ASSIGN_OR_RETURN(VcpuConfig vcpu, FromProto(vcpu_proto));
    if (vcpu.id != config.vcpus.size()) return absl::DataLossError("MachineKvm: vCPU ids are not in order");
    config.vcpus.push_back(std::move(vcpu));
  }
  if (config.vcpus.empty()) return absl::DataLossError("MachineKvm: 0 vCPUs");
  CPR_TAKE_FIELD(proto, host_boot_id, &config.host_boot_id);
  return config;
}

}  // namespace

std::vector<SectionSupport> KvmSectionSupport() {
  return {{kConfigSection, kVersion}, {kVcpuSection, kVersion}, {kVmSection, kVersion}};
}

absl::Status AddConfigSection(GuestConfig* config, SectionRegistry& sections) {
  return sections.Add(ProtoSection<v1::MachineKvm>(
      InfoOf(kConfigSection, Stage::kEarly), [config](v1::MachineKvm* proto) { return ConfigToProto(*config, proto); },
      [config](const v1::MachineKvm& proto) -> absl::Status {
        CPR_ASSIGN_OR_RETURN(*config, ConfigFromProto(proto));
        return absl::OkStatus();
      }));
}

absl::Status AddStateSections(GuestParts guest, VcpuSavePlan plan, SectionRegistry& sections) {
  CPR_ASSIGN_OR_RETURN(const std::string boot_id, HostBootId());
  return Staging::AddTo(sections, std::make_shared<Staging>(std::move(guest), std::move(plan), boot_id));
}

absl::StatusOr<std::string> HostBootId() {
  CPR_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile("/proc/sys/kernel/random/boot_id", O_RDONLY));
  CPR_ASSIGN_OR_RETURN(const std::string text, ReadToEnd(file.get(), kBootIdBytes));
  return std::string(absl::StripAsciiWhitespace(text));
}

}  // namespace cpr::kvm
