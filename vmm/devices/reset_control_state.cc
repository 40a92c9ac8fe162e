#include "vmm/devices/reset_control_state.h"

#include "libcpr/base/proto_fields.h"

namespace cpr {

v1::ResetControlState ResetControlStateToProto(const ResetControlState& state) {
  v1::ResetControlState proto;
  proto.set_reset_control(state.reset_control);
  return proto;
}

absl::StatusOr<ResetControlState> ResetControlStateFromProto(const v1::ResetControlState& proto) {
  ResetControlState state;
  CPR_TAKE_FIELD(proto, reset_control, &state.reset_control);
  return state;
}

}  // namespace cpr
