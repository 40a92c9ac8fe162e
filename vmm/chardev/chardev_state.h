#ifndef VMM_CHARDEV_CHARDEV_STATE_H_
#define VMM_CHARDEV_CHARDEV_STATE_H_

#include "absl/status/statusor.h"
#include "proto/cpr/v1/chardev.pb.h"
#include "vmm/chardev/chardev.h"
#include "vmm/chardev/config.h"

namespace cpr {

// Character devices as they are written and sent. kDataLoss names a field that is missing or out of range.
v1::ChardevConfig ChardevConfigToProto(const ChardevConfig& config);
absl::StatusOr<ChardevConfig> ChardevConfigFromProto(const v1::ChardevConfig& proto);
v1::ChardevState ChardevStateToProto(const ChardevState& state);
absl::StatusOr<ChardevState> ChardevStateFromProto(const v1::ChardevState& proto);

}  // namespace cpr

#endif  // VMM_CHARDEV_CHARDEV_STATE_H_
