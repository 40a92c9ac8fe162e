#ifndef VMM_DEVICES_ACPI_PM_STATE_H_
#define VMM_DEVICES_ACPI_PM_STATE_H_

#include "absl/status/statusor.h"
#include "proto/cpr/v1/devices.pb.h"
#include "vmm/devices/acpi_pm.h"

namespace cpr {

// AcpiPmState as it is written and sent. FromProto: kDataLoss names a field that is missing or does not fit its
// register; what the registers mean together is for AcpiPm::Restore to judge.
v1::AcpiPmState AcpiPmStateToProto(const AcpiPmState& state);
absl::StatusOr<AcpiPmState> AcpiPmStateFromProto(const v1::AcpiPmState& proto);

}  // namespace cpr

#endif  // VMM_DEVICES_ACPI_PM_STATE_H_
