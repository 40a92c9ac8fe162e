#ifndef VMM_VFIO_INTX_H_
#define VMM_VFIO_INTX_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/vfio/device.h"
#include "vmm/pci/intx_router.h"

namespace cpr {

// The INTx of a device of the host. The kernel masks it when it comes, and unmasks it once the guest is done with it;
// both by eventfds, which travel with the guest. Thread-compatible.
class VfioIntx {
 public:
  static constexpr unsigned kEventfds = 2;

  // `device` and `router` must outlive it.
  static absl::StatusOr<std::unique_ptr<VfioIntx>> Create(const vfio::Device* device, IntxRouter* router);
  ~VfioIntx();

  // Those that have come with the guest, kEventfds, in place of its own; nothing is told to the guest before Release.
  absl::Status Take(absl::Span<UniqueFd> arrived);

  // Lent.
  std::vector<int> Eventfds() const { return {trigger_.get(), resample_.get()}; }
  // The slot is known now. Once, on the event loop's thread.
  absl::Status Plug(uint32_t gsi);

  // The device is switched to INTx, or INTx off.
  absl::Status Enable();
  absl::Status Disable();
  // The device has INTx on (or off) already, as it has come.
  void Adopt(bool enabled);
  // For stop and resume of the machine.
  absl::Status Hold();
  absl::Status Release();

 private:
  VfioIntx(const vfio::Device* device, IntxRouter* router) : device_(device), router_(router) {}
  absl::Status Follow();
  IntxRouter::Line Line() const { return {trigger_.get(), resample_.get(), gsi_}; }

  const vfio::Device* const device_;
  IntxRouter* const router_;
  UniqueFd trigger_, resample_;
  uint32_t gsi_ = 0;
  bool plugged_ = false, enabled_ = false, held_ = false;
};

}  // namespace cpr

#endif  // VMM_VFIO_INTX_H_
