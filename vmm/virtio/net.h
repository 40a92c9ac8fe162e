#ifndef VMM_VIRTIO_NET_H_
#define VMM_VIRTIO_NET_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "vmm/virtio/config.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/tap.h"
#include "vmm/virtio/vhost_net.h"

namespace cpr {

struct VirtioNetState {
  VirtioState device;
  MacAddress mac = {};  // what the driver has been told

  friend bool operator==(const VirtioNetState&, const VirtioNetState&) = default;
};

// A virtio network device over a tap: one pair of queues, checksums and segmentation left to whoever can do them best.
// Frames go straight between the guest's RAM and the kernel, so none is ever on its way here: what was not received
// when the guest stands still waits in the tap. Thread-safe; Serve is cheap enough for the main loop.
//
// With vhost the kernel serves the queues while the guest runs. If it refuses, they are served here, as without it.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.1.
class VirtioNet final : public VirtioDevice {
 public:
  static constexpr uint16_t kQueueSize = 256;
  static constexpr unsigned kReceive = 0, kTransmit = 1;  // queues

  // The kernel will not serve the queues, and why. Called with the device locked, on any thread: must not call it back.
  // From now on Serve does, so its caller has to listen to the tap and to notifications.
  using FallBack = std::function<void(const absl::Status& why)>;

  // `memory` must outlive it. Whoever made it serves kReceive when the tap is readable.
  VirtioNet(const GuestMemory* memory, Tap tap, const MacAddress& mac);
  VirtioNet(const GuestMemory* memory, Tap tap, const MacAddress& mac, VhostNet vhost, FallBack fall_back);

  const Tap& tap() const { return tap_; }
  int vhost_fd() const { return vhost_fd_; }  // lent; -1: without vhost

  VirtioNetState Save() const { return {SaveVirtio(), mac_}; }
  // kDataLoss: no driver could have brought this device there; nothing has changed then.
  absl::Status Restore(const VirtioNetState& state);

 private:
  // What one frame may be received into.
  struct Room {
    std::vector<uint16_t> heads;
    std::vector<uint32_t> sizes_bytes;
    std::vector<absl::Span<uint8_t>> buffers;
    size_t total_bytes = 0;
  };
  absl::StatusOr<Served> ServeOne(unsigned index, Virtqueue& queue) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Served> Transmit(Virtqueue& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Served> Receive(Virtqueue& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Room> TakeRoom(Virtqueue& queue) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Deliver(Virtqueue& queue, const Room& room, size_t frame_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t LongestFrame() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnReset() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnActivate() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool OnStart() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnStop() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnInterruptMoved(unsigned index) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status StartVhost() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveUpVhost(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<uint8_t> Config() const override;

  const Tap tap_;
  const MacAddress mac_;
  std::optional<VhostNet> vhost_ ABSL_GUARDED_BY(mutex_);
  const int vhost_fd_ = -1;  // vhost_'s, which stays
  const FallBack fall_back_;
  bool fell_back_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace cpr

#endif  // VMM_VIRTIO_NET_H_
