#ifndef VMM_DEVICES_RESET_CONTROL_STATE_H_
#define VMM_DEVICES_RESET_CONTROL_STATE_H_

#include "absl/status/statusor.h"
#include "proto/cpr/v1/devices.pb.h"
#include "vmm/devices/reset_control.h"

namespace cpr {

// ResetControlState as it is written and sent. FromProto: kDataLoss names a field that is missing or does not fit its
// register; what the registers mean together is for ResetControl::Restore to judge.
v1::ResetControlState ResetControlStateToProto(const ResetControlState& state);
absl::StatusOr<ResetControlState> ResetControlStateFromProto(const v1::ResetControlState& proto);

}  // namespace cpr

#endif  // VMM_DEVICES_RESET_CONTROL_STATE_H_
