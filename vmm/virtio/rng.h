#ifndef VMM_VIRTIO_RNG_H_
#define VMM_VIRTIO_RNG_H_

#include <memory>

#include "absl/status/status.h"
#include "vmm/virtio/device.h"

namespace cpr {

// A virtio entropy device: the kernel's random numbers. Thread-safe; Serve is cheap enough for the main loop.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.4.
class VirtioRng final : public VirtioDevice {
 public:
  static constexpr uint16_t kQueueSize = 8;
  // A request gets no more at once: it must not keep the main loop.
  static constexpr size_t kMaxRequestBytes = 65536;

  explicit VirtioRng(const GuestMemory* memory);

  VirtioState Save() const { return SaveVirtio(); }
  // kDataLoss: no driver could have brought this device there; nothing has changed then.
  absl::Status Restore(const VirtioState& state);

 private:
  absl::StatusOr<Served> ServeOne(unsigned index, Virtqueue& queue) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
};

}  // namespace cpr

#endif  // VMM_VIRTIO_RNG_H_
