#include "vmm/vfio/config_space.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "libcpr/base/status_macros.h"
#include "vmm/pci/pci_function.h"

namespace cpr {
namespace {

constexpr unsigned kCacheLine = 0x0c, kLatencyTimer = 0x0d, kHeaderType = 0x0e, kHeaderEnd = 0x40;
constexpr unsigned kRomBar = 0x30, kPins = 4;
constexpr uint8_t kMultifunction = 0x80;
constexpr uint8_t kPowerManagement = 0x01, kMsi = 0x05, kExpress = 0x10, kMsix = 0x11;
constexpr unsigned kNextLink = 1;
constexpr unsigned kMaxCapabilities = (VfioConfigSpace::kBytes - kHeaderEnd) / 4;
// Offsets in capabilities.
constexpr unsigned kPowerControl = 4, kExpressFlags = 2, kMsixControl = 2, kMsixTable = 4, kMsixPba = 8;
constexpr uint8_t kPowerState = 3;
constexpr uint8_t kExpressType = 0xf0, kRootComplexIntegrated = 0x90;
// Of MSI without what it may have beyond; PCI Express' being longer than what is looked at.
constexpr unsigned kMsiBytes = 10, kMsixBytes = 12, kPowerBytes = 8;
constexpr unsigned kMsiControl = 2, kMsiAddress = 4;
constexpr uint32_t kMsiCapable = 0x0e, kMsi64 = 0x80, kMsiMaskable = 0x100;

uint32_t Get(absl::Span<const uint8_t> bytes, unsigned offset, unsigned size_bytes) {
  uint32_t value = 0;
  for (unsigned i = 0; i < size_bytes; ++i) value |= uint32_t{bytes[offset + i]} << (8 * i);
  return value;
}

class Shower {
 public:
  explicit Shower(absl::Span<const uint8_t> device) : device_(device) {
    for (auto* bytes : {&shown_.bytes, &shown_.ours, &shown_.writable}) bytes->resize(VfioConfigSpace::kBytes);
  }

  absl::StatusOr<VfioConfigSpace> Show() {
    ShowHeader();
    CPR_RETURN_IF_ERROR(ShowCapabilities());
    return shown_;
  }

 private:
  // `size_bytes` of ours from `offset` on, as the device has them.
  void Take(unsigned offset, unsigned size_bytes) {
    for (unsigned i = offset; i < offset + size_bytes; ++i) Put(i, device_[i], 0);
  }
  void Put(unsigned offset, uint8_t value, uint8_t writable) {
    shown_.bytes[offset] = value;
    shown_.ours[offset] = 0xff;
    shown_.writable[offset] = writable;
  }

  void ShowHeader() {
    Take(0, kHeaderEnd);
    for (const unsigned offset : {kPciStatus, kPciStatus + 1}) shown_.bytes[offset] = shown_.ours[offset] = 0;
    Put(kPciCommand, 0, kPciCommandBusMaster);
    Put(kPciCommand + 1, 0, kPciCommandIntxDisable >> 8);
    for (const unsigned memory : {kCacheLine, kLatencyTimer, kPciInterruptLine}) Put(memory, 0, 0xff);
    shown_.bytes[kHeaderType] &= static_cast<uint8_t>(~kMultifunction);
    if (shown_.bytes[kPciInterruptPin] > kPins) shown_.bytes[kPciInterruptPin] = 0;
    for (unsigned offset = kPciBar0; offset < kPciBar0 + 4 * kPciBars; ++offset) shown_.bytes[offset] = 0;
    for (unsigned offset = kRomBar; offset < kRomBar + 4; ++offset) shown_.bytes[offset] = 0;
  }

  absl::Status ShowCapabilities() {
    unsigned offset = device_[kPciCapabilityPointer] & ~3u;
    for (unsigned count = 0; offset != 0; ++count) {
      if (count == kMaxCapabilities || offset < kHeaderEnd) {
        return absl::DataLossError(absl::StrFormat("the list of PCI capabilities has no end (%#x)", offset));
      }
      CPR_RETURN_IF_ERROR(ShowCapability(offset));
      offset = device_[offset + kNextLink] & ~3u;
    }
    return absl::OkStatus();
  }

  // Of a capability, as far as it is looked at.
  unsigned BytesOf(unsigned offset) const {
    switch (device_[offset]) {
      case kMsi: {
        const uint32_t control = Get(device_, offset + kMsiControl, 2);
        return kMsiBytes + ((control & kMsi64) != 0 ? 4 : 0) + ((control & kMsiMaskable) != 0 ? 10 : 0);
      }
      case kMsix:
        return kMsixBytes;
      case kPowerManagement:
      case kExpress:
        return kPowerBytes;
      default:
        return 2;
    }
  }

  absl::Status ShowCapability(unsigned offset) {
    const uint8_t id = device_[offset];
    Take(offset, 2);
    if (offset + BytesOf(offset) > VfioConfigSpace::kBytes) {
      return absl::DataLossError(absl::StrFormat("PCI capability %#x at %#x leaves configuration space", id, offset));
    }
    if (id == kMsi) ShowMsi(offset);
    if (id == kMsix) ShowMsix(offset);
    if (id == kPowerManagement) ShowPowerManagement(offset);
    if (id == kExpress) ShowExpress(offset);
    return absl::OkStatus();
  }

  // A function asleep answers to nobody, and would fault a guest that looks: it stays awake.
  void ShowPowerManagement(unsigned offset) {
    Put(offset + kPowerControl, 0, kPowerState);
    Put(offset + kPowerControl + 1, 0, 0);
  }

  // It has no port above it in the guest.
  void ShowExpress(unsigned offset) {
    const uint8_t flags = device_[offset + kExpressFlags];
    Put(offset + kExpressFlags, static_cast<uint8_t>((flags & ~kExpressType) | kRootComplexIntegrated), 0);
  }

  void ShowMsi(unsigned offset) {
    const uint32_t control = Get(device_, offset + kMsiControl, 2);
    const bool is_64 = (control & kMsi64) != 0;
    const unsigned data = offset + (is_64 ? 12 : 8);
    for (unsigned i = offset + kMsiControl; i < offset + BytesOf(offset); ++i) Put(i, 0, i < data + 2 ? 0xff : 0);
    constexpr uint8_t kWritable = 0x71;  // enable, multiple message enable
    Put(offset + kMsiControl, static_cast<uint8_t>(control & (kMsiCapable | kMsi64)), kWritable);
    Put(offset + kMsiControl + 1, 0, 0);
    Put(offset + kMsiAddress, 0, 0xfc);
    const uint32_t vectors = 1u << std::min((control & kMsiCapable) >> 1, 5u);
    shown_.msi = {.offset = offset, .vectors = vectors, .is_64 = is_64};
  }

  void ShowMsix(unsigned offset) {
    const uint32_t control = Get(device_, offset + kMsixControl, 2);
    const uint32_t table = Get(device_, offset + kMsixTable, 4), pba = Get(device_, offset + kMsixPba, 4);
    Take(offset, kMsixBytes);
    constexpr uint16_t kWritable = 0xc000;  // enable, function mask
    Put(offset + kMsixControl + 1, static_cast<uint8_t>((control & ~kWritable) >> 8), kWritable >> 8);
    shown_.msix = {.offset = offset,
                   .vectors = (control & 0x7ff) + 1,
                   .table_bar = table & 7,
                   .pba_bar = pba & 7,
                   .table_offset = table & ~7u,
                   .pba_offset = pba & ~7u};
  }

  const absl::Span<const uint8_t> device_;
  VfioConfigSpace shown_;
};

}  // namespace

absl::StatusOr<VfioConfigSpace> ShowConfigSpace(absl::Span<const uint8_t> device) {
  if (device.size() < VfioConfigSpace::kBytes) {
    return absl::InvalidArgumentError(absl::StrFormat("configuration space of %d bytes", device.size()));
  }
  if ((device[kHeaderType] & ~kMultifunction) != 0) return absl::InvalidArgumentError("a PCI bridge");
  return Shower(device).Show();
}

}  // namespace cpr
