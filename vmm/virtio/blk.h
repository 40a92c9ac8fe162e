#ifndef VMM_VIRTIO_BLK_H_
#define VMM_VIRTIO_BLK_H_

#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "libcpr/base/unique_fd.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/disk_image.h"

namespace cpr {

struct VirtioBlkState {
  VirtioState device;
  uint64_t capacity_sectors = 0;  // what the driver has been told

  friend bool operator==(const VirtioBlkState&, const VirtioBlkState&) = default;
};

// A virtio block device over a raw image. It reads and writes on a thread of its own, request by request, so neither
// vCPUs nor the main loop wait for the disk; Quiesce waits for the one request that is under way, so none is ever lost
// or done twice: what the thread has not begun lies in the queue still. Thread-safe.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.2.
class VirtioBlk final : public VirtioDevice {
 public:
  static constexpr uint16_t kQueueSize = 256;
  static constexpr size_t kSerialBytes = 20;

  // `memory` must outlive it. `serial` is what the guest reads as the disk's ID, of which the first 20 bytes count.
  static absl::StatusOr<std::unique_ptr<VirtioBlk>> Create(const GuestMemory* memory, DiskImage image,
                                                           std::string serial);
  // Waits for the request that is under way.
  ~VirtioBlk() override;

  const DiskImage& image() const { return image_; }

  VirtioBlkState Save() const { return {SaveVirtio(), capacity_sectors()}; }
  // kDataLoss: no driver could have brought this device there; nothing has changed then.
  absl::Status Restore(const VirtioBlkState& state);

 private:
  struct Request;

  VirtioBlk(const GuestMemory* memory, DiskImage image, std::string serial, UniqueFd stop);
  uint64_t capacity_sectors() const { return image_.size_bytes() / DiskImage::kSectorBytes; }
  void Work();
  // What becomes of a request: its status byte, and how much was written for the driver before that.
  std::pair<uint8_t, size_t> Execute(const Request& request) const;

  absl::StatusOr<Served> ServeOne(unsigned index, Virtqueue& queue) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<uint8_t> Config() const override;

  const DiskImage image_;
  const std::string serial_;
  const UniqueFd stop_;  // an eventfd
  std::thread worker_;
};

}  // namespace cpr

#endif  // VMM_VIRTIO_BLK_H_
