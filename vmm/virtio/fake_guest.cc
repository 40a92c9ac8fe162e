#include "vmm/virtio/fake_guest.h"

#include <linux/virtio_config.h>

namespace cpr::testing {

FakeGuest::FakeGuest(const GuestMemory* memory, VirtioDevice* device) : device_(device) {
  for (unsigned i = 0; i < device->queue_count(); ++i) drivers_.emplace_back(memory, 0x1000 * (i + 1), kQueueSize);
  device->Connect({.queue =
                       [this](unsigned) {
                         MutexLock lock(&mutex_);
                         ++interrupts_;
                         interrupted_.SignalAll();
                       },
                   .config =
                       [this] {
                         MutexLock lock(&mutex_);
                         ++config_interrupts_;
                       }});
}

FakeGuest::~FakeGuest() { device_->Connect({}); }

void FakeGuest::BringUp(uint64_t without) {
  device_->WriteStatus(0);
  device_->WriteStatus(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
  device_->WriteDriverFeatures(device_->features() & ~without);
  device_->WriteStatus(device_->status() | VIRTIO_CONFIG_S_FEATURES_OK);
  for (unsigned i = 0; i < drivers_.size(); ++i) {
    device_->ConfigureQueue(i, [&](VirtqueueState& queue) { queue = drivers_[i].layout(); });
  }
  device_->WriteStatus(device_->status() | VIRTIO_CONFIG_S_DRIVER_OK);
}

std::pair<uint32_t, uint32_t> FakeGuest::AwaitUsed(unsigned index) {
  MutexLock lock(&mutex_);
  while (true) {
    if (const auto used = drivers_[index].TakeUsed()) return *used;
    interrupted_.Wait(&mutex_);
  }
}

int FakeGuest::config_interrupts() const {
  MutexLock lock(&mutex_);
  return config_interrupts_;
}

}  // namespace cpr::testing
