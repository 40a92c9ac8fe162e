#include "vmm/devices/acpi_pm_state.h"

#include "libcpr/base/proto_fields.h"

namespace cpr {

v1::AcpiPmState AcpiPmStateToProto(const AcpiPmState& state) {
  v1::AcpiPmState proto;
  proto.set_status(state.status);
  proto.set_enable(state.enable);
  proto.set_control(state.control);
  proto.set_timer_ns(state.timer_ns);
  proto.set_saved_at_utc_ns(state.saved_at_utc_ns);
  return proto;
}

absl::StatusOr<AcpiPmState> AcpiPmStateFromProto(const v1::AcpiPmState& proto) {
  AcpiPmState state;
  CPR_TAKE_FIELD(proto, status, &state.status);
  CPR_TAKE_FIELD(proto, enable, &state.enable);
  CPR_TAKE_FIELD(proto, control, &state.control);
  CPR_TAKE_FIELD(proto, timer_ns, &state.timer_ns);
  CPR_TAKE_FIELD(proto, saved_at_utc_ns, &state.saved_at_utc_ns);
  return state;
}

}  // namespace cpr
