#ifndef LIBCPR_KVM_NESTED_PROTO_H_
#define LIBCPR_KVM_NESTED_PROTO_H_

#include <cstdint>
#include <vector>

#include "libcpr/kvm/field_reader.h"
#include "proto/cpr/v1/kvm.pb.h"

namespace cpr::kvm::internal {

// `state`: kvm_nested_state with its data, as KVM_GET_NESTED_STATE gave it.
void NestedToProto(const std::vector<uint8_t>& state, v1::X86NestedState* proto);
// The same structure again. Complaints go to `reader`.
std::vector<uint8_t> NestedFromProto(const v1::X86NestedState& proto, FieldReader& reader);

}  // namespace cpr::kvm::internal

#endif  // LIBCPR_KVM_NESTED_PROTO_H_
