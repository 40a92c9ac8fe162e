#ifndef VMM_VIRTIO_PCI_STATE_H_
#define VMM_VIRTIO_PCI_STATE_H_

#include "absl/status/statusor.h"
#include "proto/cpr/v1/virtio.pb.h"
#include "vmm/virtio/pci.h"

namespace cpr {

// VirtioPciState as it is written and sent. FromProto: kDataLoss names a field that is missing or does not fit its
// register.
v1::VirtioPciState VirtioPciStateToProto(const VirtioPciState& state);
absl::StatusOr<VirtioPciState> VirtioPciStateFromProto(const v1::VirtioPciState& proto);

}  // namespace cpr

#endif  // VMM_VIRTIO_PCI_STATE_H_
