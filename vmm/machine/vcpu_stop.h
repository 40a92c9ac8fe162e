#ifndef VMM_MACHINE_VCPU_STOP_H_
#define VMM_MACHINE_VCPU_STOP_H_

#include <cstdint>
#include <string>

#include "libcpr/kvm/uapi.h"
#include "vmm/machine/vcpu_exits.h"

namespace cpr {

// Why a vCPU does not go on by itself: for the VMM, and in words for its user.
struct VcpuStop {
  GuestEvent event = GuestEvent::kUnspecified;
  std::string text;
};

// What an exit that asks for no access to a device means for the guest; `run` is that of vCPU `vcpu_id`. Reasons that
// are not known are internal errors. Thread-safe. Source: the Linux kernel's Documentation/virt/kvm/api.rst, 5.
VcpuStop StopAfterExit(uint32_t vcpu_id, const kvm_run& run);

// Tells of exits by the delivery of an event (KVM_INTERNAL_ERROR_DELIVERY_EV) which are mistakes of KVM's, so that the
// vCPU can run on. Thread-compatible. Source: docs/testbed.md, which has the hypervisor that makes KVM err.
class DeliveryErrors {
 public:
  // Whether it is one: `events` and `regs`, read behind it, say that no event was being delivered. KVM has changed
  // nothing then, and the guest's access to a device, which it did not carry out, is made again. Of INT3, INTO and
  // INT n the events say nothing: if nothing moves in many tries without another exit, it is no mistake.
  bool IsMistake(const kvm_run& run, const kvm_vcpu_events& events, const kvm_regs& regs);
  // Another exit has come.
  void Forget() { tries_ = 0; }

 private:
  kvm_regs regs_ = {};
  unsigned tries_ = 0;  // with these registers
};

}  // namespace cpr

#endif  // VMM_MACHINE_VCPU_STOP_H_
