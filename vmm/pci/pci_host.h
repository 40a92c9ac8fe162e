#ifndef VMM_PCI_PCI_HOST_H_
#define VMM_PCI_PCI_HOST_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/mutex.h"
#include "vmm/devices/bus.h"
#include "vmm/pci/pci_function.h"

namespace cpr {

inline constexpr unsigned kPciSlots = 32;

// Where PCI lies in the guest's address spaces. The defaults are below 4 GiB and above GuestMemory's low RAM.
struct PciWindows {
  struct Range {
    uint64_t base = 0, size_bytes = 0;
  };
  Range io = {0xc000, 0x4000};
  Range memory32 = {0xc0000000, 0x20000000};
  Range memory64 = {};                  // above all RAM
  Range ecam = {0xe0000000, 0x100000};  // 4 KiB for each of bus 0's 256 functions
};
// For RAM that ends at `ram_end_gpa`: the 64-bit window is the 64 GiB from the next multiple of 64 GiB on.
PciWindows PciWindowsAbove(uint64_t ram_end_gpa);

// The GSI of a function's INTx, level-triggered: 16 to 23, in turn. `pin` is 1 to 4.
constexpr unsigned PciIntxGsi(unsigned slot, unsigned pin) { return 16 + (slot + pin - 1) % 8; }

struct PciHostState {
  uint32_t address = 0;  // port 0xcf8

  friend bool operator==(const PciHostState&, const PciHostState&) = default;
};

// The PCI host bridge with bus 0: configuration mechanism 1 and ECAM, and BARs that follow their registers over the
// machine's buses. The bridge itself is function 00:00.0. There is no firmware: BARs are assigned here.
// Thread-safe once all functions are there.
class PciHost {
 public:
  static constexpr uint64_t kPort = 0xcf8;
  static constexpr uint64_t kPorts = 8;

  // Claims the ECAM on `mmio`. Port accesses are for the caller to pass on, since a chipset's reset control lies among
  // them. The buses must outlive the object.
  static absl::StatusOr<std::unique_ptr<PciHost>> Create(const PciWindows& windows, Bus* ports, Bus* mmio);
  ~PciHost();

  // Puts `function` (lent, must outlive all use of the host) into `slot`, 1 to 31, or the lowest free one, and places
  // its BARs. Machines built alike get the same places. Before the guest starts. Returns the slot. kAlreadyExists: the
  // slot is taken. kResourceExhausted: no slot, or no room for a BAR.
  absl::StatusOr<unsigned> Add(std::optional<unsigned> slot, PciFunction* function);
  // Null: the slot is empty.
  PciFunction* function(unsigned slot) { return functions_[slot]; }
  const PciWindows& windows() const { return windows_; }

  // `offset` from kPort.
  uint32_t ReadPort(uint64_t offset, unsigned size_bytes);
  void WritePort(uint64_t offset, unsigned size_bytes, uint32_t value);

  // Stop and resume of the machine: Msix::DetachShared and AttachShared of every function. An error is the first one;
  // the other functions are served all the same.
  absl::Status DetachInterrupts();
  absl::Status AttachInterrupts();

  // The bridge and every function as they were before the guest started.
  void Reset();
  PciHostState Save() const { return {address_.load()}; }
  // kDataLoss: reserved bits are set; nothing has changed then.
  absl::Status Restore(const PciHostState& state);
  // PciFunction::Restore, its BARs following. `slot` is not empty.
  absl::Status RestoreFunction(unsigned slot, const PciFunctionState& state);

 private:
  struct Place {
    Bus* bus = nullptr;
    uint64_t address = 0;
  };
  PciHost(const PciWindows& windows, Bus* ports, Bus* mmio);
  uint32_t ReadConfig(unsigned devfn, unsigned offset, unsigned size_bytes);
  void WriteConfig(unsigned devfn, unsigned offset, unsigned size_bytes, uint32_t value);
  absl::Status PlaceBars(PciFunction& function);
  PciWindows::Range& WindowFor(const PciFunction::Bar& bar);
  // Makes the buses say what the BARs do.
  void FollowBars(unsigned slot);
  // Of one slot. true: a place is free that was taken.
  bool FollowSlot(unsigned slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Where the BAR answers then; nullopt: nowhere.
  std::optional<Place> Map(unsigned slot, unsigned bar, uint64_t address);

  const PciWindows windows_;
  PciWindows free_;  // what is left of them
  Bus* const ports_;
  Bus* const mmio_;
  const std::unique_ptr<PciFunction> bridge_;
  std::array<PciFunction*, kPciSlots> functions_{};
  std::atomic<uint32_t> address_{0};
  Mutex mutex_;
  std::array<std::array<std::optional<Place>, kPciBars>, kPciSlots> mapped_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cpr

#endif  // VMM_PCI_PCI_HOST_H_
