#include "vmm/pci/pci_host.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

constexpr uint32_t kAddressEnable = 1u << 31;
constexpr uint32_t kAddressReserved = 0x7f000003;
constexpr uint64_t kDataOffset = 4;  // 0xcfc
constexpr uint64_t k64GiB = uint64_t{64} << 30;
constexpr unsigned kBarsEnd = kPciBar0 + 4 * kPciBars;
constexpr uint64_t kLargestLowBar = uint64_t{16} << 20;  // larger ones that can go above 4 GiB do

// "QEMU PCIe host bridge", which is to say any: nothing in it is specific to a chipset.
class HostBridge : public PciFunction {
 public:
  HostBridge() : PciFunction({.vendor_id = 0x1b36, .device_id = 0x0008, .class_code = 0x060000}) {}
  uint64_t ReadBar(unsigned, uint64_t, unsigned) override { return ~uint64_t{0}; }
  void WriteBar(unsigned, uint64_t, unsigned, uint64_t) override {}
};

uint32_t Ones(unsigned size_bytes) { return size_bytes >= 4 ? ~0u : (1u << 8 * size_bytes) - 1; }

}  // namespace

PciWindows PciWindowsAbove(uint64_t ram_end_gpa) {
  PciWindows windows;
  windows.memory64 = {(ram_end_gpa / k64GiB + 1) * k64GiB, k64GiB};
  return windows;
}

PciHost::PciHost(const PciWindows& windows, Bus* ports, Bus* mmio)
    : windows_(windows), free_(windows), ports_(ports), mmio_(mmio), bridge_(std::make_unique<HostBridge>()) {
  functions_[0] = bridge_.get();
}

absl::StatusOr<std::unique_ptr<PciHost>> PciHost::Create(const PciWindows& windows, Bus* ports, Bus* mmio) {
  std::unique_ptr<PciHost> host(new PciHost(windows, ports, mmio));
  CPR_RETURN_IF_ERROR(mmio->Add("PCI configuration", windows.ecam.base, windows.ecam.size_bytes, 4,
                                {.read = [host = host.get()](uint64_t offset, unsigned size_bytes) -> uint64_t {
                                   return host->ReadConfig(static_cast<unsigned>(offset >> 12), offset & 0xfff,
                                                           size_bytes);
                                 },
                                 .write =
                                     [host = host.get()](uint64_t offset, unsigned size_bytes, uint64_t value) {
                                       host->WriteConfig(static_cast<unsigned>(offset >> 12), offset & 0xfff,
                                                         size_bytes, static_cast<uint32_t>(value));
                                     }}));
  return host;
}

// The functions may be gone: not every machine gets finished.
PciHost::~PciHost() {
  // None there: Create failed.
  mmio_->Remove(windows_.ecam.base).IgnoreError();
  MutexLock lock(&mutex_);
  for (const auto& bars : mapped_) {
    for (const std::optional<Place>& place : bars) {
      if (place.has_value()) place->bus->Remove(place->address).IgnoreError();  // it is there
    }
  }
}

PciWindows::Range& PciHost::WindowFor(const PciFunction::Bar& bar) {
  if (bar.kind == PciBarKind::kIo) return free_.io;
  if (bar.kind == PciBarKind::kMemory32 || bar.size_bytes <= kLargestLowBar) return free_.memory32;
  return free_.memory64;
}

absl::Status PciHost::PlaceBars(PciFunction& function) {
  for (unsigned i = 0; i < kPciBars; ++i) {
    const PciFunction::Bar& bar = function.bars()[i];
    if (bar.kind == PciBarKind::kNone) continue;
    PciWindows::Range& window = WindowFor(bar);
    const uint64_t address = (window.base + bar.size_bytes - 1) & ~(bar.size_bytes - 1);
    const uint64_t end = window.base + window.size_bytes;
    if (address > end || bar.size_bytes > end - address) {
      return absl::ResourceExhaustedError(absl::StrFormat("no room for PCI BAR %d of %#x bytes", i, bar.size_bytes));
    }
    window = {address + bar.size_bytes, end - address - bar.size_bytes};
    function.SetBarAddress(i, address);
  }
  return absl::OkStatus();
}

absl::StatusOr<unsigned> PciHost::Add(std::optional<unsigned> slot, PciFunction* function) {
  if (!slot.has_value()) {
    slot = 1;
    while (*slot < kPciSlots && functions_[*slot] != nullptr) ++*slot;
  }
  if (*slot >= kPciSlots) return absl::ResourceExhaustedError("all PCI slots are taken");
  if (functions_[*slot] != nullptr) return absl::AlreadyExistsError(absl::StrFormat("PCI slot %d is taken", *slot));
  CPR_RETURN_IF_ERROR(PlaceBars(*function));
  functions_[*slot] = function;
  FollowBars(*slot);
  return *slot;
}

uint32_t PciHost::ReadConfig(unsigned devfn, unsigned offset, unsigned size_bytes) {
  PciFunction* function = devfn % 8 == 0 ? functions_[devfn / 8] : nullptr;
  return function == nullptr ? Ones(size_bytes) : function->ReadConfig(offset, size_bytes);
}

void PciHost::WriteConfig(unsigned devfn, unsigned offset, unsigned size_bytes, uint32_t value) {
  PciFunction* function = devfn % 8 == 0 ? functions_[devfn / 8] : nullptr;
  if (function == nullptr) return;
  function->WriteConfig(offset, size_bytes, value);
  const bool command = offset < kPciStatus && offset + size_bytes > kPciCommand;
  const bool bars = offset < kBarsEnd && offset + size_bytes > kPciBar0;
  if (command || bars) FollowBars(devfn / 8);
}

uint32_t PciHost::ReadPort(uint64_t offset, unsigned size_bytes) {
  const uint32_t address = address_.load();
  if (offset < kDataOffset) return offset == 0 && size_bytes == 4 ? address : Ones(size_bytes);
  if ((address & kAddressEnable) == 0 || ((address >> 16) & 0xff) != 0) return Ones(size_bytes);
  return ReadConfig((address >> 8) & 0xff, (address & 0xfc) + static_cast<unsigned>(offset - kDataOffset), size_bytes);
}

void PciHost::WritePort(uint64_t offset, unsigned size_bytes, uint32_t value) {
  if (offset < kDataOffset) {
    if (offset == 0 && size_bytes == 4) address_ = value & ~kAddressReserved;
    return;
  }
  const uint32_t address = address_.load();
  if ((address & kAddressEnable) == 0 || ((address >> 16) & 0xff) != 0) return;
  WriteConfig((address >> 8) & 0xff, (address & 0xfc) + static_cast<unsigned>(offset - kDataOffset), size_bytes, value);
}

std::optional<PciHost::Place> PciHost::Map(unsigned slot, unsigned bar, uint64_t address) {
  PciFunction* function = functions_[slot];
  const PciFunction::Bar& place = function->bars()[bar];
  Bus* bus = place.kind == PciBarKind::kIo ? ports_ : mmio_;
  // Where something else is already, a guest that is sizing the BAR has it for a moment: it answers nowhere then.
  const absl::Status added =
      bus->Add(absl::StrFormat("PCI slot %d BAR %d", slot, bar), address, place.size_bytes, 8,
               {.read = [=](uint64_t offset, unsigned size) { return function->AccessBarRead(bar, offset, size); },
                .write = [=](uint64_t offset, unsigned size,
                             uint64_t value) { function->AccessBarWrite(bar, offset, size, value); }});
  if (!added.ok()) return std::nullopt;
  return Place{bus, address};
}

void PciHost::FollowBars(unsigned slot) {
  MutexLock lock(&mutex_);
  if (!FollowSlot(slot)) return;
  // A BAR that found its place taken may have it now: two may change places.
  for (unsigned other = 0; other < kPciSlots; ++other) {
    if (functions_[other] != nullptr) FollowSlot(other);
  }
}

bool PciHost::FollowSlot(unsigned slot) {
  bool made_room = false;
  PciFunction* function = functions_[slot];
  for (unsigned bar = 0; bar < kPciBars; ++bar) {
    std::optional<Place>& mapped = mapped_[slot][bar];
    const std::optional<uint64_t> wanted = function->BarAddress(bar);
    const std::optional<uint64_t> before = mapped.has_value() ? std::make_optional(mapped->address) : std::nullopt;
    if (wanted == before) continue;
    if (mapped.has_value()) {
      mapped->bus->Remove(mapped->address).IgnoreError();  // it is there
      mapped.reset();
      made_room = true;
    }
    if (wanted.has_value()) mapped = Map(slot, bar, *wanted);
    const std::optional<uint64_t> now = mapped.has_value() ? wanted : std::nullopt;
    if (now != before) function->BarMoved(bar, now);
  }
  return made_room;
}

absl::Status PciHost::DetachInterrupts() {
  absl::Status status;
  for (PciFunction* function : functions_) {
    if (function != nullptr) status.Update(function->DetachInterrupts());
  }
  return status;
}

absl::Status PciHost::AttachInterrupts() {
  absl::Status status;
  for (PciFunction* function : functions_) {
    if (function != nullptr) status.Update(function->AttachInterrupts());
  }
  return status;
}

void PciHost::Reset() {
  address_ = 0;
  for (unsigned slot = 0; slot < kPciSlots; ++slot) {
    if (functions_[slot] == nullptr) continue;
    functions_[slot]->Reset();
    FollowBars(slot);
  }
}

absl::Status PciHost::Restore(const PciHostState& state) {
  if ((state.address & kAddressReserved) != 0) {
    return absl::DataLossError(absl::StrFormat("PCI configuration address is %#x", state.address));
  }
  address_ = state.address;
  return absl::OkStatus();
}

absl::Status PciHost::RestoreFunction(unsigned slot, const PciFunctionState& state) {
  CPR_RETURN_IF_ERROR(functions_[slot]->Restore(state));
  FollowBars(slot);
  return absl::OkStatus();
}

}  // namespace cpr
