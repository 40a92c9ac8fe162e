#ifndef LIBCPR_KVM_VM_STATE_PROTO_H_
#define LIBCPR_KVM_VM_STATE_PROTO_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/kvm/vm_state.h"
#include "proto/cpr/v1/kvm.pb.h"

namespace cpr::kvm {

// Writes the state into an empty `proto`, which may be on an arena. kInvalidArgument: a GSI route of a kind that has no
// form on the wire (anything but irqchip, MSI and Hyper-V SINT).
void ToProto(const VmConfig& config, v1::VmX86Config* proto);
absl::Status ToProto(const VmState& state, v1::VmX86State* proto);

// Checks every size, count and range of `proto`, which may be hostile, and touches nothing else. kDataLoss names the
// field: "VmX86State.pit.channels[1].count: 65537 is more than 65536".
absl::StatusOr<VmConfig> FromProto(const v1::VmX86Config& proto);
absl::StatusOr<VmState> FromProto(const v1::VmX86State& proto);

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_VM_STATE_PROTO_H_
