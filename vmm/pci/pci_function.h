// A function on the PCI bus. A device derives from it, describes itself in its constructor and serves its BARs:
//
//   class Edu : public PciFunction {
//    public:
//     explicit Edu() : PciFunction({.vendor_id = 0x1234, .device_id = 0x11e8, .class_code = 0x00ff00}) {
//       AddBar(0, PciBarKind::kMemory64, 1 << 20);
//     }
//     uint64_t ReadBar(unsigned bar, uint64_t offset, unsigned size_bytes) override;
//     void WriteBar(unsigned bar, uint64_t offset, unsigned size_bytes, uint64_t value) override;
//   };
//   edu.AddMsix({.bar = 2, .vectors = 4}, router);
//   host.Add(3, &edu);
#ifndef VMM_PCI_PCI_FUNCTION_H_
#define VMM_PCI_PCI_FUNCTION_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "libcpr/base/mutex.h"
#include "vmm/pci/msix.h"

namespace cpr {

// Offsets in configuration space (PCI Local Bus 3.0, 6.1) that more than one file speaks of.
inline constexpr unsigned kPciCommand = 0x04, kPciStatus = 0x06, kPciBar0 = 0x10, kPciCapabilityPointer = 0x34,
                          kPciInterruptLine = 0x3c, kPciInterruptPin = 0x3d;
inline constexpr uint16_t kPciCommandIo = 1, kPciCommandMemory = 2, kPciCommandBusMaster = 4,
                          kPciCommandIntxDisable = 0x400;
inline constexpr unsigned kPciBars = 6;

enum class PciBarKind : uint8_t { kNone, kIo, kMemory32, kMemory64, kPrefetchable64 };

// What a PCI function remembers: its configuration space, and its MSI-X table if it has one.
struct PciFunctionState {
  std::vector<uint8_t> config;
  std::vector<MsixVectorState> vectors;

  friend bool operator==(const PciFunctionState&, const PciFunctionState&) = default;
};

// Configuration space and BARs of one function; the rest is the subclass's. The Add... methods are for before the
// function is on a bus; from then on it is thread-safe. No method of the subclass is called with a lock held.
class PciFunction {
 public:
  struct Identity {
    uint16_t vendor_id = 0xffff;
    uint16_t device_id = 0;
    uint8_t revision = 0;
    uint32_t class_code = 0;  // 24 bits: class, subclass, programming interface
    uint16_t subsystem_vendor_id = 0;
    uint16_t subsystem_id = 0;
    uint8_t interrupt_pin = 0;    // 1 to 4: INTA to INTD; 0: none
    unsigned config_bytes = 256;  // or 4096
  };
  explicit PciFunction(const Identity& identity);
  // One whose configuration space exists already, but for its BARs; `writable`, as long, has ones where the guest may
  // write. The capabilities in it stay where they are.
  PciFunction(std::vector<uint8_t> config, std::vector<uint8_t> writable);
  virtual ~PciFunction() = default;
  PciFunction(const PciFunction&) = delete;
  PciFunction& operator=(const PciFunction&) = delete;

  // BAR `index` of `size_bytes`: a power of two, at least 16 for memory and 4 for I/O. A 64-bit BAR takes `index` + 1,
  // too.
  void AddBar(unsigned index, PciBarKind kind, uint64_t size_bytes);
  // Appends a capability: id, link to the next one, `body`. `writable`, as long as `body` or empty, has ones where the
  // guest may write. Returns its offset.
  unsigned AddCapability(uint8_t id, absl::Span<const uint8_t> body, absl::Span<const uint8_t> writable = {});
  // The MSI-X capability. Table and pending bits lie in `bar`, which is added here if it does not exist yet, and are
  // served here: ReadBar and WriteBar do not see them. `router` must outlive the function.
  struct MsixPlace {
    unsigned bar = 0;
    unsigned vectors = 1;
    uint64_t table_offset = 0;
    std::optional<uint64_t> pba_offset = std::nullopt;  // behind the table if not given
    std::optional<unsigned> pba_bar = std::nullopt;     // the table's if not given
  };
  absl::Status AddMsix(const MsixPlace& place, MsiRouter* router);
  // The same for a capability that is in the configuration space already, at offset `capability`, of a device that
  // others signal for: Msix::Create with `shared`.
  absl::Status AdoptMsix(unsigned capability, const MsixPlace& place, MsiRouter* router);

  // Null: the function has none.
  Msix* msix() { return msix_.get(); }
  // For stop and resume of the machine: Msix::DetachShared and AttachShared of all that interrupts for the function.
  virtual absl::Status DetachInterrupts();
  virtual absl::Status AttachInterrupts();

  // The guest's access to BAR memory, of 1 to 8 bytes, naturally aligned, `offset` from the BAR's start.
  virtual uint64_t ReadBar(unsigned bar, uint64_t offset, unsigned size_bytes) = 0;
  virtual void WriteBar(unsigned bar, uint64_t offset, unsigned size_bytes, uint64_t value) = 0;
  // BAR `bar` answers at `address` from now on (nullopt: nowhere): the time to move doorbells. Called when it has
  // changed only, the first time when the machine is built, outside of any pause.
  virtual void BarMoved(unsigned /*bar*/, std::optional<uint64_t> /*address*/) {}

  // The guest's access to configuration space, of 1, 2 or 4 bytes, naturally aligned. A subclass that overrides them
  // passes on to these.
  virtual uint32_t ReadConfig(unsigned offset, unsigned size_bytes);
  virtual void WriteConfig(unsigned offset, unsigned size_bytes, uint32_t value);

  // Configuration space and MSI-X as they were before the first access. A subclass resets itself, too.
  virtual void Reset();

  PciFunctionState Save() const;
  // kDataLoss: the state is no state of this function; nothing has changed then. PciHost::Restore then moves its BARs.
  virtual absl::Status Restore(const PciFunctionState& state);

  // May the function access RAM, and interrupt (command register, bus master).
  bool bus_master() const;

  // For PciHost.
  struct Bar {
    PciBarKind kind = PciBarKind::kNone;
    uint64_t size_bytes = 0;
  };
  const std::array<Bar, kPciBars>& bars() const { return bars_; }
  // Where BAR `index` answers by its register and the command register; nullopt: nowhere.
  std::optional<uint64_t> BarAddress(unsigned index) const;
  // What firmware does: places the BAR. Decoding is switched on by the command register.
  void SetBarAddress(unsigned index, uint64_t address);
  // An access to BAR memory, the MSI-X table's being served here.
  uint64_t AccessBarRead(unsigned bar, uint64_t offset, unsigned size_bytes);
  void AccessBarWrite(unsigned bar, uint64_t offset, unsigned size_bytes, uint64_t value);

 protected:
  // Configuration space as the device itself sees and changes it; what it changes is not saved unless the guest could
  // have written it.
  uint32_t Config(unsigned offset, unsigned size_bytes) const;
  void SetConfig(unsigned offset, unsigned size_bytes, uint32_t value);

 private:
  std::optional<uint64_t> TableOffset(unsigned bar, uint64_t offset) const;
  std::optional<uint64_t> PbaOffset(unsigned bar, uint64_t offset) const;
  void UpdateMsixControl();
  absl::Status Validate(const PciFunctionState& state) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::array<Bar, kPciBars> bars_;
  std::unique_ptr<Msix> msix_;
  MsixPlace msix_place_;
  unsigned msix_capability_ = 0;
  unsigned next_capability_ = 0x40;
  unsigned last_capability_link_ = kPciCapabilityPointer;

  mutable Mutex mutex_;
  std::vector<uint8_t> config_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint8_t> initial_ ABSL_GUARDED_BY(mutex_);   // after Reset
  std::vector<uint8_t> writable_ ABSL_GUARDED_BY(mutex_);  // ones where the guest may write
};

}  // namespace cpr

#endif  // VMM_PCI_PCI_FUNCTION_H_
