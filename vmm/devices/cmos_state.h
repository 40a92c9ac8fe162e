#ifndef VMM_DEVICES_CMOS_STATE_H_
#define VMM_DEVICES_CMOS_STATE_H_

#include "absl/status/statusor.h"
#include "proto/cpr/v1/devices.pb.h"
#include "vmm/devices/cmos.h"

namespace cpr {

// CmosState as it is written and sent. FromProto: kDataLoss names a field that is missing or does not fit its
// register; what the registers mean together is for Cmos::Restore to judge.
v1::CmosState CmosStateToProto(const CmosState& state);
absl::StatusOr<CmosState> CmosStateFromProto(const v1::CmosState& proto);

}  // namespace cpr

#endif  // VMM_DEVICES_CMOS_STATE_H_
