#include "vmm/machine/vcpu_stop.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace cpr {
namespace {

constexpr unsigned kMaxTries = 100;

GuestEvent EventOfType(uint32_t system_event_type) {
  switch (system_event_type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
      return GuestEvent::kShutdown;
    case KVM_SYSTEM_EVENT_RESET:
      return GuestEvent::kReset;
    default:
      return GuestEvent::kPanic;
  }
}

// What KVM has added, which for exits by the delivery of an event tells which one (KVM_INTERNAL_ERROR_DELIVERY_EV).
std::string InternalErrorData(const kvm_run& run) {
  const size_t count = std::min<size_t>(run.internal.ndata, std::size(run.internal.data));
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t datum = run.internal.data[i];
    absl::StrAppend(&text, i == 0 ? ", data" : "", " 0x", absl::Hex(datum));
  }
  return text;
}

}  // namespace

VcpuStop StopAfterExit(uint32_t vcpu_id, const kvm_run& run) {
  const std::string vcpu = absl::StrCat("vcpu ", vcpu_id);
  switch (run.exit_reason) {
    case KVM_EXIT_SHUTDOWN:
      return {GuestEvent::kReset, absl::StrCat(vcpu, " shut down (triple fault)")};
    case KVM_EXIT_SYSTEM_EVENT:
      return {EventOfType(run.system_event.type), absl::StrCat(vcpu, " reported system event ", run.system_event.type)};
    case KVM_EXIT_FAIL_ENTRY:
      return {GuestEvent::kInternalError, absl::StrCat(vcpu, " entry failed, hardware reason 0x",
                                                       absl::Hex(run.fail_entry.hardware_entry_failure_reason))};
    case KVM_EXIT_INTERNAL_ERROR:
      return {GuestEvent::kInternalError,
              absl::StrCat(vcpu, " KVM internal error, suberror ", run.internal.suberror, InternalErrorData(run))};
    default:
      return {GuestEvent::kInternalError, absl::StrCat(vcpu, " unknown KVM exit ", run.exit_reason)};
  }
}

bool DeliveryErrors::IsMistake(const kvm_run& run, const kvm_vcpu_events& events, const kvm_regs& regs) {
  if (run.exit_reason != KVM_EXIT_INTERNAL_ERROR) return false;
  if (run.internal.suberror != KVM_INTERNAL_ERROR_DELIVERY_EV) return false;
  if (events.exception.injected || events.interrupt.injected || events.nmi.injected) return false;
  if (std::memcmp(&regs, &regs_, sizeof(regs)) != 0) tries_ = 0;
  regs_ = regs;
  return ++tries_ <= kMaxTries;
}

}  // namespace cpr
