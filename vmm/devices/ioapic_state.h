#ifndef VMM_DEVICES_IOAPIC_STATE_H_
#define VMM_DEVICES_IOAPIC_STATE_H_

#include "absl/status/statusor.h"
#include "proto/cpr/v1/devices.pb.h"
#include "vmm/devices/ioapic.h"

namespace cpr {

// IoapicState as it is written and sent. FromProto: kDataLoss names a field that is missing or does not fit its
// register; what the registers mean together is for Ioapic::Restore to judge.
v1::IoapicState IoapicStateToProto(const IoapicState& state);
absl::StatusOr<IoapicState> IoapicStateFromProto(const v1::IoapicState& proto);

}  // namespace cpr

#endif  // VMM_DEVICES_IOAPIC_STATE_H_
