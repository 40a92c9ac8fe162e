#ifndef VMM_VIRTIO_PCI_H_
#define VMM_VIRTIO_PCI_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/mutex.h"
#include "vmm/pci/pci_function.h"
#include "vmm/virtio/device.h"

namespace cpr {

// The transport's registers that are not the device's.
struct VirtioPciState {
  uint32_t device_feature_select = 0;
  uint32_t driver_feature_select = 0;
  uint16_t queue_select = 0;
  uint16_t config_vector = 0xffff;  // MSI-X; 0xffff: none
  std::vector<uint16_t> queue_vectors;
  uint8_t interrupt_status = 0;

  friend bool operator==(const VirtioPciState&, const VirtioPciState&) = default;
};

// A virtio device on the PCI bus: the modern transport, everything in BAR 0, with MSI-X and without INTx. Thread-safe.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 4.1.
class VirtioPci final : public PciFunction {
 public:
  // Has KVM signal an eventfd (lent) when the guest writes `queue` to its doorbell, two bytes at `gpa`; `add` or no
  // more. Errors mean that the guest's writes come to WriteBar instead, which is slower and nothing else.
  using Doorbell = std::function<absl::Status(uint64_t gpa, int eventfd, bool add)>;

  // `device` and `router` must outlive it. `class_code` is what the guest sees, 24 bits. An empty `doorbell` is none.
  static absl::StatusOr<std::unique_ptr<VirtioPci>> Create(VirtioDevice* device, uint32_t class_code, MsiRouter* router,
                                                           Doorbell doorbell);
  ~VirtioPci() override;

  uint64_t ReadBar(unsigned bar, uint64_t offset, unsigned size_bytes) override;
  void WriteBar(unsigned bar, uint64_t offset, unsigned size_bytes, uint64_t value) override;
  void BarMoved(unsigned bar, std::optional<uint64_t> address) override;
  // A guest is about to arrive whose BAR is where it was placed, as a rule: KVM listens to the doorbells there from now
  // on, and need not be told while the guest stands still. RestoreTransport corrects it.
  void ExpectDoorbells() { MoveDoorbells(PlacedBar()); }
  void Reset() override;

  VirtioPciState SaveTransport() const;
  // kDataLoss: no driver could have brought the registers there; nothing has changed then. PciFunction::Restore comes
  // first.
  absl::Status RestoreTransport(const VirtioPciState& state);

  // Where the parts of BAR 0 lie.
  static constexpr uint64_t kCommonAt = 0, kInterruptStatusAt = 0x1000, kDeviceAt = 0x2000, kDoorbellsAt = 0x3000,
                            kMsixAt = 0x4000, kPendingAt = 0x5000, kBarBytes = 0x8000;
  static constexpr uint64_t kDoorbellBytes = 4;  // of each queue

 private:
  VirtioPci(VirtioDevice* device, uint32_t class_code, Doorbell doorbell);
  void AddCapabilities();
  unsigned vectors() const { return device_->queue_count() + 1; }

  template <typename T>
  T Get(T VirtioPciState::*which) const {
    MutexLock lock(&mutex_);
    return state_.*which;
  }
  template <typename T>
  void Set(T VirtioPciState::*which, T value) {
    MutexLock lock(&mutex_);
    state_.*which = value;
  }
  uint64_t ReadCommon(uint64_t offset);
  uint64_t ReadSelectedQueue(uint64_t offset, unsigned index);
  void WriteCommon(uint64_t offset, uint32_t value);
  void WriteDriverFeatures(uint32_t window, uint32_t value);
  void WriteSelectedQueue(uint64_t offset, unsigned index, uint32_t value);
  void ResetTransport();
  uint16_t SettleVector(uint32_t value) const;
  void SignalQueue(unsigned queue);
  void SignalConfig();
  absl::StatusOr<int> QueueEventfd(unsigned queue);
  uint64_t PlacedBar() const;
  void MoveDoorbells(std::optional<uint64_t> address);

  VirtioDevice* const device_;
  const Doorbell doorbell_;
  // Held for no call into the device, which calls here with its own lock held.
  mutable Mutex mutex_;
  VirtioPciState state_ ABSL_GUARDED_BY(mutex_);
  std::optional<uint64_t> doorbells_gpa_ ABSL_GUARDED_BY(mutex_);  // where KVM listens
};

}  // namespace cpr

#endif  // VMM_VIRTIO_PCI_H_
