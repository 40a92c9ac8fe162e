#ifndef VMM_PCI_FAKE_PCI_H_
#define VMM_PCI_FAKE_PCI_H_

#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "vmm/pci/intx_router.h"
#include "vmm/pci/msi_router.h"
#include "vmm/pci/pci_function.h"

// What stands in for KVM, and a small function, in tests of this folder.

namespace cpr::testing {

// Remembers what it was told.
class RecordingRouter : public MsiRouter {
 public:
  absl::StatusOr<uint32_t> AllocateGsi() override { return next_gsi_++; }
  void SetRoute(uint32_t gsi, const MsiMessage& message) override { staged[gsi] = message; }
  absl::Status Commit() override {
    if (staged != routes) ++commits;
    routes = staged;
    return absl::OkStatus();
  }
  absl::Status Attach(int eventfd, uint32_t gsi) override {
    if (refused.contains(gsi)) return absl::ResourceExhaustedError("no irqfd");
    attached[gsi] = eventfd;
    return absl::OkStatus();
  }
  absl::Status Detach(int, uint32_t gsi) override {
    attached.erase(gsi);
    return absl::OkStatus();
  }

  std::map<uint32_t, MsiMessage> staged, routes;
  std::map<uint32_t, int> attached;
  std::set<uint32_t> refused;
  int commits = 0;

 private:
  uint32_t next_gsi_ = 24;
};

// Remembers lines, and which are open.
class RecordingIntxRouter : public IntxRouter {
 public:
  absl::Status Add(const Line& line) override {
    open[line.gsi] = false;
    lines[line.gsi] = line;
    return absl::OkStatus();
  }
  void Remove(const Line& line) override {
    open.erase(line.gsi);
    lines.erase(line.gsi);
  }
  absl::Status Open(const Line& line) override {
    open.at(line.gsi) = true;
    return absl::OkStatus();
  }
  absl::Status Close(const Line& line) override {
    open.at(line.gsi) = false;
    return absl::OkStatus();
  }
  absl::Status Hold(const Line& line) override { return Close(line); }

  std::map<uint32_t, bool> open;
  std::map<uint32_t, Line> lines;
};

// Has 4 KiB of registers that remember what is written, an I/O BAR, and three MSI-X vectors in BAR 4.
class ToyFunction : public PciFunction {
 public:
  static constexpr unsigned kVectors = 3;

  explicit ToyFunction(MsiRouter* router)
      : PciFunction({.vendor_id = 0x1234, .device_id = 0x5678, .revision = 1, .class_code = 0x00ff00}) {
    AddBar(0, PciBarKind::kMemory64, 4096);
    AddBar(2, PciBarKind::kIo, 16);
    const uint8_t body[] = {6, 0xaa, 0xbb, 0xcc}, writable[] = {0, 0, 0xf0, 0};
    vendor_capability = AddCapability(9, body, writable);
    status = AddMsix({.bar = 4, .vectors = kVectors}, router);
  }
  uint64_t ReadBar(unsigned bar, uint64_t offset, unsigned) override { return values[{bar, offset}]; }
  void WriteBar(unsigned bar, uint64_t offset, unsigned, uint64_t value) override { values[{bar, offset}] = value; }
  void BarMoved(unsigned bar, std::optional<uint64_t> address) override { moves.push_back({bar, address}); }

  unsigned vendor_capability = 0;
  absl::Status status;
  std::map<std::pair<unsigned, uint64_t>, uint64_t> values;
  std::vector<std::pair<unsigned, std::optional<uint64_t>>> moves;
};

}  // namespace cpr::testing

#endif  // VMM_PCI_FAKE_PCI_H_
