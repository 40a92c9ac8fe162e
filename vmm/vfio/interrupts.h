#ifndef VMM_VFIO_INTERRUPTS_H_
#define VMM_VFIO_INTERRUPTS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/vfio/device.h"
#include "vmm/pci/intx_router.h"
#include "vmm/pci/msi_router.h"
#include "vmm/pci/msix.h"
#include "vmm/vfio/config_space.h"
#include "vmm/vfio/intx.h"
#include "vmm/vfio/msi_registers.h"

namespace cpr {

// The interrupts of a device of the host: the one kind that the guest has switched on is connected to the device, and
// by eventfds to the guest. Thread-compatible.
class VfioInterrupts {
 public:
  // What the guest's configuration space says.
  struct Setting {
    bool msix = false;
    MsiRegisters msi;
    friend bool operator==(const Setting&, const Setting&) = default;
  };
  struct Wiring {
    const vfio::Device* device = nullptr;  // must outlive the object, and so must all others
    Msix* msix = nullptr;                  // with shared vectors; null: the device has none
    MsiRouter* router = nullptr;
    IntxRouter* intx_router = nullptr;
    std::function<void(const std::string& text)> warn;
  };
  // Takes all of `arrived`, the eventfds that have come (null: none has), of a device that works already and is told
  // nothing. kFailedPrecondition: they are not this device's.
  static absl::StatusOr<std::unique_ptr<VfioInterrupts>> Create(const VfioConfigSpace& shown, Wiring wiring,
                                                                std::vector<UniqueFd>* arrived);

  // Of the vectors of MSI-X, those of MSI, and INTx's, as far as the device has them; lent.
  absl::StatusOr<std::vector<int>> Eventfds();
  // The function is in a slot now, INTx goes to `gsi`. Once, on the event loop's thread. Where nothing has arrived,
  // INTx is on from here on.
  void Plug(uint32_t gsi);

  // The guest has changed its setting.
  void Follow(const Setting& before, const Setting& now);
  // The two halves of it, for what must be done in between.
  void SwitchOff(const Setting& before);
  void SwitchOn(const Setting& now);
  // A guest with this setting has come in, with the device as it is.
  void Adopt(const Setting& setting);
  // For stop and resume of the machine. MSI-X is the function's.
  absl::Status Hold();
  absl::Status Release();

 private:
  explicit VfioInterrupts(Wiring wiring) : wiring_(std::move(wiring)) {}
  absl::Status Take(std::vector<UniqueFd>& arrived);
  void ApplyMsi(const MsiRegisters& registers);
  void Check(const absl::Status& status) const;

  const Wiring wiring_;
  std::unique_ptr<Msix> msi_;       // a table that the guest does not see; null: the device has no MSI
  std::unique_ptr<VfioIntx> intx_;  // null: the device has no INTx
  bool arrived_ = false;
};

}  // namespace cpr

#endif  // VMM_VFIO_INTERRUPTS_H_
