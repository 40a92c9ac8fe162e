#ifndef LIBCPR_KVM_VCPU_STATE_PROTO_H_
#define LIBCPR_KVM_VCPU_STATE_PROTO_H_

#include "absl/status/statusor.h"
#include "libcpr/kvm/vcpu_state.h"
#include "proto/cpr/v1/kvm.pb.h"

namespace cpr::kvm {

// Writes the state into an empty `proto`, which may be on an arena.
void ToProto(const VcpuConfig& config, v1::VcpuX86Config* proto);
void ToProto(const VcpuState& state, v1::VcpuX86State* proto);

// Checks every size, count and range of `proto`, which may be hostile, and touches nothing else. kDataLoss names the
// field: "VcpuX86State.sregs.cs.type: 16 is more than 15". What only a kernel can judge (say, whether CR0 and CR4 go
// together) RestoreVcpu finds out.
absl::StatusOr<VcpuConfig> FromProto(const v1::VcpuX86Config& proto);
absl::StatusOr<VcpuState> FromProto(const v1::VcpuX86State& proto);

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_VCPU_STATE_PROTO_H_
