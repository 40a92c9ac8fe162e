#include "libcpr/kvm/vcpu_state.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/kvm/msrs.h"

namespace cpr::kvm {
namespace {

constexpr size_t kXstateBvOffset = 512;     // of the XSAVE header, Intel SDM volume 1, 13.4.2
constexpr uint64_t kTscTolerancePpm = 250;  // kvm.tsc_tolerance_ppm

// kvm_sregs2 begins as kvm_sregs does, and goes on with other things.
constexpr size_t kCommonSregsBytes = offsetof(kvm_sregs, interrupt_bitmap);
static_assert(kCommonSregsBytes == offsetof(kvm_sregs2, flags));

absl::Status SaveSregs(const Vcpu& vcpu, const HostCaps& caps, VcpuState& state) {
  if (caps.sregs2) {
    CPR_ASSIGN_OR_RETURN(state.sregs, vcpu.Sregs2());
    return absl::OkStatus();
  }
  CPR_ASSIGN_OR_RETURN(const kvm_sregs sregs, vcpu.Sregs());
  std::memcpy(&state.sregs, &sregs, kCommonSregsBytes);
  return absl::OkStatus();
}

struct RestoreArgs {
  Vcpu& vcpu;
  const VcpuState& state;
  const HostCaps& caps;
};

absl::Status SetSregs(const RestoreArgs& a) {
  if (a.caps.sregs2) return a.vcpu.SetSregs2(a.state.sregs);
  kvm_sregs sregs = {};  // the kernel reads the PDPTRs from guest RAM then
  std::memcpy(&sregs, &a.state.sregs, kCommonSregsBytes);
  return a.vcpu.SetSregs(sregs);
}

absl::Status SetXcrs(const RestoreArgs& a) { return a.vcpu.SetXcrs(a.state.xcrs); }

absl::Status SetXsave(const RestoreArgs& a) {
  // The kernel reads as much as this host's area has. What is beyond either's is unused: CheckHost looked.
  if (a.state.xsave.size() >= a.caps.xsave_size_bytes) return a.vcpu.SetXsave(a.state.xsave);
  std::vector<uint8_t> padded = a.state.xsave;
  padded.resize(a.caps.xsave_size_bytes);
  return a.vcpu.SetXsave(padded);
}

absl::Status SetDebugRegs(const RestoreArgs& a) { return a.vcpu.SetDebugRegs(a.state.debugregs); }
absl::Status SetLapic(const RestoreArgs& a) {
  return a.state.lapic.has_value() ? a.vcpu.SetLapic(*a.state.lapic) : absl::OkStatus();
}

// Read back, because software KVM backends take the offset and ignore it; theirs is always 0.
absl::Status SetTscOffset(const RestoreArgs& a) {
  CPR_RETURN_IF_ERROR(a.vcpu.SetTscOffset(a.state.tsc_offset));
  if (a.state.tsc_offset == 0) return absl::OkStatus();
  CPR_ASSIGN_OR_RETURN(const uint64_t actual, a.vcpu.TscOffset());
  if (actual == a.state.tsc_offset) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("host KVM ignores KVM_VCPU_TSC_OFFSET: it stays ", actual));
}

absl::Status SetMsrs(const RestoreArgs& a) { return RestoreMsrs(a.vcpu, a.state.msrs); }
absl::Status SetNestedState(const RestoreArgs& a) {
  return a.state.nested_state.empty() ? absl::OkStatus() : a.vcpu.SetNestedState(a.state.nested_state);
}
absl::Status SetMpState(const RestoreArgs& a) { return a.vcpu.SetMpState(a.state.mp_state); }
absl::Status SetRegs(const RestoreArgs& a) { return a.vcpu.SetRegs(a.state.regs); }
absl::Status SetEvents(const RestoreArgs& a) { return a.vcpu.SetVcpuEvents(a.state.events); }

struct RestoreStep {
  const char* name;
  absl::Status (*apply)(const RestoreArgs&);
};

// Order matters, see docs/ordering.md; CPUID and TSC_KHZ were set by ConfigureVcpu:
//  - SREGS holds the APIC base and EFER                -> before LAPIC, before NESTED_STATE (EFER.SVME)
//  - SREGS makes a halted BSP at the reset vector run  -> before MP_STATE
//  - LAPIC zeroes the deadline and gives its mode      -> before MSRS
//  - TSC_OFFSET tells what a deadline means            -> before MSRS, where the deadline is the last
//  - MSRS holds FEATURE_CONTROL and VMX capabilities   -> before NESTED_STATE
//  - NESTED_STATE may load RIP and RSP                 -> before REGS
//  - REGS clears pending exceptions                    -> before VCPU_EVENTS
constexpr RestoreStep kRestoreOrder[] = {
    {"SREGS2", &SetSregs},       {"XCRS", &SetXcrs},
    {"XSAVE", &SetXsave},        {"DEBUGREGS", &SetDebugRegs},
    {"LAPIC", &SetLapic},        {"TSC_OFFSET", &SetTscOffset},
    {"MSRS", &SetMsrs},          {"NESTED_STATE", &SetNestedState},
    {"MP_STATE", &SetMpState},   {"REGS", &SetRegs},
    {"VCPU_EVENTS", &SetEvents},
};

absl::Status CheckXsave(const VcpuState& state, const HostCaps& caps) {
  if (state.xsave.size() < sizeof(kvm_xsave)) {
    return absl::InvalidArgumentError(absl::StrCat("xsave has ", state.xsave.size(), " bytes, less than 4096"));
  }
  if (const uint64_t missing = XsaveFeatures(state.xsave) & ~caps.xsave_features; missing != 0) {
    return absl::UnimplementedError(
        absl::StrCat("host lacks XSAVE features 0x", absl::Hex(missing), " that the guest uses"));
  }
  return absl::OkStatus();
}

// What can be known to fail before anything is touched.
absl::Status CheckHost(const VcpuState& state, const HostCaps& caps) {
  CPR_RETURN_IF_ERROR(CheckXsave(state, caps));
  if (state.nested_state.size() > caps.nested_state_size_bytes) {
    return absl::UnimplementedError(caps.nested_state_size_bytes == 0 ? "host KVM lacks KVM_CAP_NESTED_STATE"
                                                                      : "host KVM's nested state is smaller");
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t XsaveFeatures(const std::vector<uint8_t>& xsave) {
  uint64_t features = 0;
  std::memcpy(&features, xsave.data() + kXstateBvOffset, sizeof(features));
  return features;
}

absl::StatusOr<VcpuSavePlan> PlanVcpuSave(const System& system, const Vcpu& probe) {
  VcpuSavePlan plan = {.caps = system.caps()};
  CPR_ASSIGN_OR_RETURN(plan.msrs, StateMsrs(system, probe));
  const auto lapic = probe.Lapic();
  plan.lapic = lapic.ok();
  if (!lapic.ok() && StatusErrno(lapic.status()) != EINVAL) return lapic.status();
  return plan;
}

absl::StatusOr<VcpuConfig> SaveVcpuConfig(const Vcpu& vcpu, const HostCaps& caps) {
  VcpuConfig config = {.id = vcpu.id()};
  CPR_ASSIGN_OR_RETURN(config.cpuid, vcpu.Cpuid2());
  if (caps.get_tsc_khz) {
    CPR_ASSIGN_OR_RETURN(config.tsc_khz, vcpu.TscKhz());
  }
  return config;
}

absl::Status ConfigureVcpu(Vcpu& vcpu, const VcpuConfig& config, const HostCaps& caps) {
  CPR_RETURN_IF_ERROR(vcpu.SetCpuid2(config.cpuid));
  if (!config.tsc_khz.has_value()) return absl::OkStatus();
  if (!caps.get_tsc_khz) return absl::UnimplementedError("host KVM lacks KVM_CAP_GET_TSC_KHZ");
  CPR_ASSIGN_OR_RETURN(const uint64_t host_khz, vcpu.TscKhz());
  const uint64_t wanted_khz = *config.tsc_khz;
  if (wanted_khz == host_khz) return absl::OkStatus();
  const uint64_t apart_khz = wanted_khz > host_khz ? wanted_khz - host_khz : host_khz - wanted_khz;
  if (!caps.tsc_control && apart_khz * 1'000'000 > host_khz * kTscTolerancePpm) {
    return absl::UnimplementedError(absl::StrCat("vcpu ", vcpu.id(), ": TSC of ", wanted_khz, " kHz on a host of ",
                                                 host_khz, " kHz: host KVM lacks KVM_CAP_TSC_CONTROL"));
  }
  return vcpu.SetTscKhz(*config.tsc_khz);
}

absl::StatusOr<VcpuState> SaveVcpu(const Vcpu& vcpu, const VcpuSavePlan& plan) {
  VcpuState state = {.id = vcpu.id()};
  // First: it acts on a pending INIT or SIPI, which changes CS, RIP and the LAPIC.
  CPR_ASSIGN_OR_RETURN(state.mp_state, vcpu.MpState());
  CPR_ASSIGN_OR_RETURN(state.regs, vcpu.Regs());
  CPR_RETURN_IF_ERROR(SaveSregs(vcpu, plan.caps, state));
  CPR_ASSIGN_OR_RETURN(state.xsave, plan.caps.xsave2 ? vcpu.Xsave2(plan.caps.xsave_size_bytes) : vcpu.Xsave());
  CPR_ASSIGN_OR_RETURN(state.xcrs, vcpu.Xcrs());
  CPR_ASSIGN_OR_RETURN(state.debugregs, vcpu.DebugRegs());
  CPR_ASSIGN_OR_RETURN(state.tsc_offset, vcpu.TscOffset());
  // Before LAPIC: a timer that fires between the two zeroes the deadline and sets the IRR. Read in this order it may
  // tick twice; read in the other it would be lost.
  CPR_ASSIGN_OR_RETURN(state.msrs, SaveMsrs(vcpu, plan.msrs));
  if (plan.lapic) {
    CPR_ASSIGN_OR_RETURN(state.lapic, vcpu.Lapic());
  }
  if (plan.caps.nested_state_size_bytes != 0) {
    CPR_ASSIGN_OR_RETURN(state.nested_state, vcpu.NestedState(plan.caps.nested_state_size_bytes));
  }
  // Last: every ioctl before may still raise or deliver an event.
  CPR_ASSIGN_OR_RETURN(state.events, vcpu.VcpuEvents());
  return state;
}

absl::Status RestoreVcpu(Vcpu& vcpu, const VcpuState& state, const HostCaps& caps) {
  const RestoreArgs args = {vcpu, state, caps};
  if (absl::Status s = CheckHost(state, caps); !s.ok()) return Annotate(s, absl::StrCat("restore vcpu ", vcpu.id()));
  for (const RestoreStep& step : kRestoreOrder) {
    const absl::Status status = step.apply(args);
    if (!status.ok()) return Annotate(status, absl::StrCat("restore vcpu ", vcpu.id(), ", step ", step.name));
  }
  return absl::OkStatus();
}

std::vector<const char*> VcpuRestoreSteps() {
  std::vector<const char*> names;
  for (const RestoreStep& step : kRestoreOrder) names.push_back(step.name);
  return names;
}

absl::Status NotifyGuestStopped(Vcpu& vcpu) {
  const absl::Status status = vcpu.KvmclockCtrl();
  return StatusErrno(status) == EINVAL ? absl::OkStatus() : status;
}

}  // namespace cpr::kvm
