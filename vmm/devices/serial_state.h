#ifndef VMM_DEVICES_SERIAL_STATE_H_
#define VMM_DEVICES_SERIAL_STATE_H_

#include "absl/status/statusor.h"
#include "proto/cpr/v1/devices.pb.h"
#include "vmm/devices/serial.h"

namespace cpr {

// SerialState as it is written and sent. FromProto: kDataLoss names a field that is missing or does not fit its
// register; what the registers mean together is for Serial::Restore to judge.
v1::SerialState SerialStateToProto(const SerialState& state);
absl::StatusOr<SerialState> SerialStateFromProto(const v1::SerialState& proto);

}  // namespace cpr

#endif  // VMM_DEVICES_SERIAL_STATE_H_
