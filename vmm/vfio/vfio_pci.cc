#include "vmm/vfio/vfio_pci.h"

#include <linux/vfio.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/pci/pci_host.h"

namespace cpr {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr unsigned kMsixControl = 2;
constexpr uint16_t kMsixEnable = 0x8000;
constexpr uint32_t kBarIo = 1, kBar64 = 4, kBarPrefetchable = 8;

uint64_t PageDown(uint64_t offset) { return offset & ~(kPageBytes - 1); }
uint64_t PageUp(uint64_t offset) { return PageDown(offset + kPageBytes - 1); }

PciBarKind KindOf(uint32_t flags) {
  if ((flags & kBarIo) != 0) return PciBarKind::kIo;
  if ((flags & kBar64) == 0) return PciBarKind::kMemory32;
  return (flags & kBarPrefetchable) != 0 ? PciBarKind::kPrefetchable64 : PciBarKind::kMemory64;
}

// What the device does not answer reads as all ones, as on a bus.
uint64_t ReadRegion(const vfio::Device& device, const vfio::Device::Region& region, uint64_t offset,
                    unsigned size_bytes) {
  uint64_t value = 0;
  const ssize_t n = ::pread(device.fd(), &value, size_bytes, static_cast<off_t>(region.offset_bytes + offset));
  return n == static_cast<ssize_t>(size_bytes) ? value : ~uint64_t{0} >> (64 - 8 * size_bytes);
}

void WriteRegion(const vfio::Device& device, const vfio::Device::Region& region, uint64_t offset, unsigned size_bytes,
                 uint64_t value) {
  const off_t place = static_cast<off_t>(region.offset_bytes + offset);
  [[maybe_unused]] const ssize_t n = ::pwrite(device.fd(), &value, size_bytes, place);
}

absl::StatusOr<std::vector<uint8_t>> ReadConfigSpace(const vfio::Device& device, const vfio::Device::Region& region) {
  std::vector<uint8_t> config(std::min<uint64_t>(region.size_bytes, VfioConfigSpace::kBytes));
  for (size_t offset = 0; offset + 4 <= config.size(); offset += 4) {
    const uint64_t value = ReadRegion(device, region, offset, 4);
    for (unsigned i = 0; i < 4; ++i) config[offset + i] = static_cast<uint8_t>(value >> (8 * i));
  }
  return config;
}

}  // namespace

VfioPci::VfioPci(vfio::Device device, VfioConfigSpace config, Wiring wiring)
    : PciFunction(config.bytes, config.writable),
      device_(std::move(device)),
      shown_(std::move(config)),
      wiring_(std::move(wiring)) {}

absl::StatusOr<std::unique_ptr<VfioPci>> VfioPci::Create(vfio::Device device, Wiring wiring, Arrived* arrived) {
  CPR_ASSIGN_OR_RETURN(const vfio::Device::Region region, device.GetRegion(VFIO_PCI_CONFIG_REGION_INDEX));
  CPR_ASSIGN_OR_RETURN(const std::vector<uint8_t> raw, ReadConfigSpace(device, region));
  CPR_ASSIGN_OR_RETURN(VfioConfigSpace shown, ShowConfigSpace(raw));
  std::unique_ptr<VfioPci> function(new VfioPci(std::move(device), std::move(shown), std::move(wiring)));
  function->config_region_ = region;
  CPR_RETURN_IF_ERROR(function->AddBars(raw));
  CPR_RETURN_IF_ERROR(function->AddInterrupts(arrived));
  for (unsigned bar = 0; bar < kPciBars; ++bar) CPR_RETURN_IF_ERROR(function->AddWindows(bar));
  if (arrived == nullptr) function->PassCommand();
  CPR_RETURN_IF_ERROR(function->DetachInterrupts());
  return function;
}

VfioPci::~VfioPci() {
  for (const Window& window : windows_) {
    if (window.placed) wiring_.set_memslot(window.memslot, 0, {}).IgnoreError();
  }
}

absl::Status VfioPci::AddBars(absl::Span<const uint8_t> raw_config) {
  for (unsigned bar = 0; bar < kPciBars; ++bar) {
    CPR_ASSIGN_OR_RETURN(regions_[bar], device_.GetRegion(VFIO_PCI_BAR0_REGION_INDEX + bar));
    const uint64_t size_bytes = regions_[bar].size_bytes;
    if (size_bytes == 0) continue;
    const PciBarKind kind = KindOf(raw_config[kPciBar0 + 4 * bar]);
    const bool is_64 = kind == PciBarKind::kMemory64 || kind == PciBarKind::kPrefetchable64;
    if (!std::has_single_bit(size_bytes) || size_bytes < (kind == PciBarKind::kIo ? 4 : 16) ||
        (is_64 && bar + 1 == kPciBars)) {
      return absl::DataLossError(absl::StrFormat("BAR %d of %#x bytes", bar, size_bytes));
    }
    AddBar(bar, kind, size_bytes);
    if (is_64) ++bar;
  }
  return absl::OkStatus();
}

VfioIdentity VfioPci::identity() const {
  VfioIdentity identity;
  identity.vendor_id = static_cast<uint16_t>(shown_.bytes[0] | shown_.bytes[1] << 8);
  identity.device_id = static_cast<uint16_t>(shown_.bytes[2] | shown_.bytes[3] << 8);
  for (unsigned bar = 0; bar < kPciBars; ++bar) identity.bar_bytes[bar] = bars()[bar].size_bytes;
  return identity;
}

absl::Status VfioPci::AddInterrupts(Arrived* arrived) {
  arrived_ = arrived != nullptr;
  if (shown_.msix.has_value()) CPR_RETURN_IF_ERROR(AddMsix());
  CPR_ASSIGN_OR_RETURN(interrupts_, VfioInterrupts::Create(shown_,
                                                           {.device = &device_,
                                                            .msix = msix(),
                                                            .router = wiring_.router,
                                                            .intx_router = wiring_.intx_router,
                                                            .warn = wiring_.warn},
                                                           arrived == nullptr ? nullptr : &arrived->interrupts));
  CPR_ASSIGN_OR_RETURN(
      notices_,
      VfioNotices::Create({.device = &device_, .loop = wiring_.loop, .failed = wiring_.failed, .warn = wiring_.warn},
                          arrived == nullptr ? VfioNotices::Fds() : std::move(arrived->notices)));
  return absl::OkStatus();
}

void VfioPci::Plug(unsigned slot) {
  const unsigned pin = shown_.bytes[kPciInterruptPin];
  if (pin != 0) interrupts_->Plug(PciIntxGsi(slot, pin));
}

absl::Status VfioPci::AddMsix() {
  const VfioConfigSpace::Msix& msix = *shown_.msix;
  const auto fits = [this](unsigned bar, uint64_t offset, uint64_t size_bytes) {
    return bar < kPciBars && bars()[bar].kind > PciBarKind::kIo && offset <= bars()[bar].size_bytes &&
           size_bytes <= bars()[bar].size_bytes - offset;
  };
  if (!fits(msix.table_bar, msix.table_offset, uint64_t{msix.vectors} * Msix::kEntryBytes) ||
      !fits(msix.pba_bar, msix.pba_offset, (msix.vectors + 63) / 64 * 8)) {
    return absl::DataLossError("the MSI-X table lies in no memory BAR");
  }
  return AdoptMsix(msix.offset,
                   {.bar = msix.table_bar,
                    .vectors = msix.vectors,
                    .table_offset = msix.table_offset,
                    .pba_offset = msix.pba_offset,
                    .pba_bar = msix.pba_bar},
                   wiring_.router);
}

// All of the BAR but the pages of the MSI-X table and its pending bits.
absl::Status VfioPci::AddWindows(unsigned bar) {
  const uint64_t size_bytes = bars()[bar].size_bytes;
  if (bars()[bar].kind <= PciBarKind::kIo || !regions_[bar].mappable || size_bytes < kPageBytes) {
    return absl::OkStatus();
  }
  std::vector<std::pair<uint64_t, uint64_t>> trapped;
  const auto trap = [&](unsigned where, uint64_t offset, uint64_t bytes) {
    if (where == bar) trapped.emplace_back(PageDown(offset), PageUp(offset + bytes));
  };
  if (msix() != nullptr) {
    trap(shown_.msix->table_bar, shown_.msix->table_offset, msix()->table_bytes());
    trap(shown_.msix->pba_bar, shown_.msix->pba_offset, msix()->pba_bytes());
  }
  std::sort(trapped.begin(), trapped.end());
  uint64_t begin = 0;
  for (const auto& [first, last] : trapped) {
    CPR_RETURN_IF_ERROR(AddWindow(bar, begin, first));
    begin = std::max(begin, last);
  }
  return AddWindow(bar, begin, size_bytes);
}

absl::Status VfioPci::AddWindow(unsigned bar, uint64_t begin, uint64_t end) {
  if (begin >= end) return absl::OkStatus();
  absl::StatusOr<Mapping> memory = Mapping::Create(device_.fd(), regions_[bar].offset_bytes + begin, end - begin);
  if (!memory.ok()) return Annotate(memory.status(), absl::StrCat("BAR ", bar));
  const uint32_t memslot = wiring_.first_memslot + static_cast<uint32_t>(windows_.size());
  windows_.push_back({.bar = bar, .offset = begin, .memory = *std::move(memory), .memslot = memslot});
  return absl::OkStatus();
}

uint64_t VfioPci::ReadBar(unsigned bar, uint64_t offset, unsigned size_bytes) {
  return ReadRegion(device_, regions_[bar], offset, size_bytes);
}

void VfioPci::WriteBar(unsigned bar, uint64_t offset, unsigned size_bytes, uint64_t value) {
  WriteRegion(device_, regions_[bar], offset, size_bytes, value);
}

void VfioPci::BarMoved(unsigned bar, std::optional<uint64_t> address) {
  for (Window& window : windows_) {
    if (window.bar != bar) continue;
    if (std::exchange(window.placed, false)) wiring_.set_memslot(window.memslot, 0, {}).IgnoreError();  // it is there
    if (!address.has_value()) continue;
    // Where RAM or another BAR is, the guest gets this one's memory by exits.
    const absl::Status status = wiring_.set_memslot(window.memslot, *address + window.offset,
                                                    absl::MakeSpan(window.memory.data(), window.memory.size_bytes()));
    window.placed = status.ok();
    if (!status.ok()) wiring_.warn(absl::StrFormat("BAR %d at %#x: %s", bar, *address, std::string(status.message())));
  }
}

uint32_t VfioPci::ReadConfig(unsigned offset, unsigned size_bytes) {
  const uint32_t own = PciFunction::ReadConfig(offset, size_bytes);
  if (offset + size_bytes > VfioConfigSpace::kBytes) return own;
  uint32_t ours = 0;
  for (unsigned i = 0; i < size_bytes; ++i) ours |= uint32_t{shown_.ours[offset + i]} << (8 * i);
  if (ours == ~uint32_t{0} >> (32 - 8 * size_bytes)) return own;
  const auto theirs = static_cast<uint32_t>(ReadRegion(device_, config_region_, offset, size_bytes));
  return (own & ours) | (theirs & ~ours);
}

void VfioPci::WriteConfig(unsigned offset, unsigned size_bytes, uint32_t value) {
  if (offset + size_bytes > VfioConfigSpace::kBytes) return;
  MutexLock lock(&config_mutex_);
  const VfioInterrupts::Setting before = Setting();
  PciFunction::WriteConfig(offset, size_bytes, value);
  PassOn(offset, size_bytes, value);
  if (offset < kPciStatus && offset + size_bytes > kPciCommand) PassCommand();
  if (const VfioInterrupts::Setting now = Setting(); now != before) interrupts_->Follow(before, now);
}

// In naturally aligned pieces without a byte that is ours.
void VfioPci::PassOn(unsigned offset, unsigned size_bytes, uint32_t value) {
  const auto first = shown_.ours.begin() + offset;
  if (std::none_of(first, first + size_bytes, [](uint8_t ours) { return ours != 0; })) {
    return WriteRegion(device_, config_region_, offset, size_bytes, value);
  }
  if (size_bytes == 1) return;
  PassOn(offset, size_bytes / 2, value);
  PassOn(offset + size_bytes / 2, size_bytes / 2, value >> (4 * size_bytes));
}

// The host's function answers always: that it does not in the guest is the bus's business, and a vCPU that looks at the
// moment at which it is switched off must not be lost.
void VfioPci::PassCommand() {
  uint32_t command = Config(kPciCommand, 2);
  for (const Bar& bar : bars()) {
    if (bar.kind == PciBarKind::kIo) command |= kPciCommandIo;
    if (bar.kind > PciBarKind::kIo) command |= kPciCommandMemory;
  }
  WriteRegion(device_, config_region_, kPciCommand, 2, command);
}

VfioInterrupts::Setting VfioPci::Setting() const {
  VfioInterrupts::Setting setting;
  if (shown_.msix.has_value()) setting.msix = (Config(shown_.msix->offset + kMsixControl, 2) & kMsixEnable) != 0;
  if (shown_.msi.has_value()) {
    setting.msi =
        ReadMsi(*shown_.msi, [this](unsigned offset, unsigned size_bytes) { return Config(offset, size_bytes); });
  }
  return setting;
}

void VfioPci::Reset() {
  MutexLock lock(&config_mutex_);
  interrupts_->SwitchOff(Setting());
  PciFunction::Reset();
  const absl::Status status = device_.Reset();
  if (!status.ok() && !absl::IsUnimplemented(status)) wiring_.warn(absl::StrCat("reset: ", status.message()));
  interrupts_->SwitchOn(Setting());
  PassCommand();
}

// A device that has come with the guest is told nothing. One that was opened anew has been reset by that, as far as it
// can be (vfio-pci does so), and learns what the guest had set up here; its driver does the rest when the guest wakes.
absl::Status VfioPci::Restore(const PciFunctionState& state) {
  MutexLock lock(&config_mutex_);
  const VfioInterrupts::Setting before = Setting();
  CPR_RETURN_IF_ERROR(Annotate(PciFunction::Restore(state), wiring_.name));
  const VfioInterrupts::Setting now = Setting();
  if (arrived_) {
    interrupts_->Adopt(now);
    return absl::OkStatus();
  }
  PassCommand();
  if (now != before) interrupts_->Follow(before, now);
  return absl::OkStatus();
}

absl::Status VfioPci::DetachInterrupts() {
  absl::Status status = PciFunction::DetachInterrupts();
  notices_->Hold();
  status.Update(interrupts_->Hold());
  return status;
}

absl::Status VfioPci::AttachInterrupts() {
  absl::Status status = PciFunction::AttachInterrupts();
  status.Update(interrupts_->Release());
  status.Update(notices_->Release());
  return status;
}

}  // namespace cpr
