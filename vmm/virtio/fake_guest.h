#ifndef VMM_VIRTIO_FAKE_GUEST_H_
#define VMM_VIRTIO_FAKE_GUEST_H_

#include <cstdint>
#include <map>
#include <vector>

#include "libcpr/base/mutex.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/fake_driver.h"

namespace cpr::testing {

// A guest's driver of one device: it brings it up, and waits for its interrupts. Its rings lie below 0x20000; above,
// RAM is the test's. Thread-safe where it says so.
class FakeGuest {
 public:
  static constexpr uint16_t kQueueSize = 8;
  static constexpr uint64_t kFreeGpa = 0x20000;

  // All must outlive it; `device` must not be at work beyond its life either.
  FakeGuest(const GuestMemory* memory, VirtioDevice* device);
  ~FakeGuest();

  // Says DRIVER_OK with every feature that is offered, but `without`.
  void BringUp(uint64_t without = 0);
  FakeDriver& queue(unsigned index) { return drivers_[index]; }
  // Notifies; the device's thread has to look.
  void Kick(unsigned index) { device_->Notify(index); }
  // Until a request has come back: its head and how much was written.
  std::pair<uint32_t, uint32_t> AwaitUsed(unsigned index);
  int config_interrupts() const;

 private:
  VirtioDevice* const device_;
  std::vector<FakeDriver> drivers_;
  mutable Mutex mutex_;
  CondVar interrupted_;
  int interrupts_ ABSL_GUARDED_BY(mutex_) = 0;
  int config_interrupts_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace cpr::testing

#endif  // VMM_VIRTIO_FAKE_GUEST_H_
