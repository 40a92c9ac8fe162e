#ifndef VMM_VFIO_VFIO_PCI_H_
#define VMM_VFIO_VFIO_PCI_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/mutex.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/vfio/device.h"
#include "vmm/event_loop/event_loop.h"
#include "vmm/pci/pci_function.h"
#include "vmm/vfio/config_space.h"
#include "vmm/vfio/identity.h"
#include "vmm/vfio/interrupts.h"
#include "vmm/vfio/notices.h"

namespace cpr {

// A function of the host on the guest's bus. The guest reaches its memory BARs without us, but for the pages where the
// MSI-X table and its pending bits lie; everything else by the device's fd. Its interrupts go from the device to KVM.
// Handing it over: its fd and its eventfds go to the new process, with PciFunctionState; the device is told nothing.
// Thread-safe, as PciFunction is.
class VfioPci final : public PciFunction {
 public:
  struct Wiring {
    std::string name;                   // for errors
    MsiRouter* router = nullptr;        // must outlive the function
    IntxRouter* intx_router = nullptr;  // likewise
    // Puts memory of this process at `gpa` in the guest, as KVM's memslot `slot`; empty: takes the slot's away.
    std::function<absl::Status(uint32_t slot, uint64_t gpa, absl::Span<uint8_t> memory)> set_memslot;
    uint32_t first_memslot = 0;
    EventLoop* loop = nullptr;  // must outlive the function
    // The device has failed, and the guest runs: it cannot go on. On the event loop's thread.
    std::function<void(const std::string& text)> failed;
    // What the guest cannot be told: the host refuses it interrupts, or a place in its memory, or wants the device
    // back. On any thread.
    std::function<void(const std::string& text)> warn;
  };
  // What has come with the guest, beside the device's fd.
  struct Arrived {
    std::vector<UniqueFd> interrupts;  // VfioInterrupts' eventfds
    VfioNotices::Fds notices;
  };
  // A memslot for each part of a BAR that is not trapped.
  static constexpr uint32_t kMaxMemslots = 3 * kPciBars;

  // Takes a device that works already: it has come with the guest if `arrived` is not null, all of which is taken, and
  // is not told anything. Interrupts stay in the eventfds until AttachInterrupts. On the event loop's thread.
  // kInvalidArgument, kDataLoss: the device is none that can be shown to a guest. kFailedPrecondition: `arrived` is not
  // of this device.
  static absl::StatusOr<std::unique_ptr<VfioPci>> Create(vfio::Device device, Wiring wiring, Arrived* arrived);
  ~VfioPci() override;

  const vfio::Device& device() const { return device_; }
  VfioIdentity identity() const;
  // VfioInterrupts'.
  absl::StatusOr<std::vector<int>> Eventfds() { return interrupts_->Eventfds(); }
  const VfioNotices& notices() const { return *notices_; }
  // The function is in `slot` now: its INTx has a GSI. On the event loop's thread.
  void Plug(unsigned slot);

  uint64_t ReadBar(unsigned bar, uint64_t offset, unsigned size_bytes) override;
  void WriteBar(unsigned bar, uint64_t offset, unsigned size_bytes, uint64_t value) override;
  void BarMoved(unsigned bar, std::optional<uint64_t> address) override;
  uint32_t ReadConfig(unsigned offset, unsigned size_bytes) override;
  void WriteConfig(unsigned offset, unsigned size_bytes, uint32_t value) override;
  // The device, too, if it can be reset by itself.
  void Reset() override;
  // Errors name the function.
  absl::Status Restore(const PciFunctionState& state) override;
  absl::Status DetachInterrupts() override;
  absl::Status AttachInterrupts() override;

 private:
  // Of a BAR, in the guest without us.
  struct Window {
    unsigned bar = 0;
    uint64_t offset = 0;
    Mapping memory;
    uint32_t memslot = 0;
    bool placed = false;
  };
  VfioPci(vfio::Device device, VfioConfigSpace config, Wiring wiring);
  absl::Status AddBars(absl::Span<const uint8_t> raw_config);
  absl::Status AddInterrupts(Arrived* arrived);
  absl::Status AddMsix();
  absl::Status AddWindows(unsigned bar);
  absl::Status AddWindow(unsigned bar, uint64_t begin, uint64_t end);
  void PassOn(unsigned offset, unsigned size_bytes, uint32_t value);
  void PassCommand();
  VfioInterrupts::Setting Setting() const;

  const vfio::Device device_;
  const VfioConfigSpace shown_;
  const Wiring wiring_;
  std::array<vfio::Device::Region, kPciBars> regions_;
  vfio::Device::Region config_region_;
  std::vector<Window> windows_;  // BarMoved's, which comes one at a time
  std::unique_ptr<VfioInterrupts> interrupts_;
  std::unique_ptr<VfioNotices> notices_;
  bool arrived_ = false;
  Mutex config_mutex_;  // one write of configuration space at a time
};

}  // namespace cpr

#endif  // VMM_VFIO_VFIO_PCI_H_
