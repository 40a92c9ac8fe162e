#ifndef VMM_VIRTIO_DEVICE_STATE_H_
#define VMM_VIRTIO_DEVICE_STATE_H_

#include "absl/status/statusor.h"
#include "proto/cpr/v1/virtio.pb.h"
#include "vmm/virtio/blk.h"
#include "vmm/virtio/console.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/net.h"

namespace cpr {

// States of virtio devices as they are written and sent. FromProto: kDataLoss names a field that is missing or does not
// fit its register; what the registers mean together is for the device's Restore to judge.
v1::VirtioState VirtioStateToProto(const VirtioState& state);
absl::StatusOr<VirtioState> VirtioStateFromProto(const v1::VirtioState& proto);

v1::VirtioBlkState VirtioBlkStateToProto(const VirtioBlkState& state);
absl::StatusOr<VirtioBlkState> VirtioBlkStateFromProto(const v1::VirtioBlkState& proto);

v1::VirtioNetState VirtioNetStateToProto(const VirtioNetState& state);
absl::StatusOr<VirtioNetState> VirtioNetStateFromProto(const v1::VirtioNetState& proto);

v1::VirtioConsoleState VirtioConsoleStateToProto(const VirtioConsoleState& state);
absl::StatusOr<VirtioConsoleState> VirtioConsoleStateFromProto(const v1::VirtioConsoleState& proto);

}  // namespace cpr

#endif  // VMM_VIRTIO_DEVICE_STATE_H_
