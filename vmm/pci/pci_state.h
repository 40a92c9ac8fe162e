#ifndef VMM_PCI_PCI_STATE_H_
#define VMM_PCI_PCI_STATE_H_

#include "absl/status/statusor.h"
#include "proto/cpr/v1/pci.pb.h"
#include "vmm/pci/pci_function.h"
#include "vmm/pci/pci_host.h"

namespace cpr {

// The states as they are written and sent. FromProto: kDataLoss names a field that is missing or does not fit; whether
// the state is one of this very function is for its Restore to judge.
v1::PciHostState PciHostStateToProto(const PciHostState& state);
absl::StatusOr<PciHostState> PciHostStateFromProto(const v1::PciHostState& proto);
v1::PciFunctionState PciFunctionStateToProto(const PciFunctionState& state);
absl::StatusOr<PciFunctionState> PciFunctionStateFromProto(const v1::PciFunctionState& proto);

}  // namespace cpr

#endif  // VMM_PCI_PCI_STATE_H_
