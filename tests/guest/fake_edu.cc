#include "tests/guest/fake_edu.h"

#include <cstring>

namespace cpr::testing {
namespace {

constexpr uint32_t kIds = 0x11e81234, kBarBytes = 1 << 20;
constexpr unsigned kCommandRegister = 0x04, kCapabilities = 0x34, kInterruptPin = 0x3c, kMsi = 0x40;
constexpr uint32_t kHasCapabilities = 0x10 << 16, kIntA = 1 << 8, kMsi64Bit = 1 << 23, kMsiEnable = 1 << 16;
constexpr uint32_t kStatus = 0x24, kRaise = 0x60, kAcknowledge = 0x64, kSource = 0x80, kDestination = 0x88,
                   kCount = 0x90, kCommand = 0x98;
constexpr uint32_t kToRam = 2, kDone = 0x100;

}  // namespace

FakeEdu::FakeEdu(std::optional<uint32_t> intx_pin, bool has_msi) : FakeFunction(kIds), intx_pin_(intx_pin) {
  AddBar(0, kBarBytes);
  if (intx_pin.has_value()) AddConfig(kInterruptPin, kIntA, 0);
  if (!has_msi) return;
  AddConfig(kCommandRegister, kHasCapabilities, 0xffff);
  AddConfig(kCapabilities, kMsi, 0);
  AddConfig(kMsi, 5 | kMsi64Bit, kMsiEnable);
  AddConfig(kMsi + 4, 0, ~0u);
  AddConfig(kMsi + 12, 0, ~0u);
}

uint32_t FakeEdu::ReadBar(GuestVm* /*guest*/, unsigned /*bar*/, uint64_t offset) {
  if (offset == 0) return 0x010000ed;
  return offset == kStatus ? status_.load() : 0;  // and a command that is done
}

void FakeEdu::WriteBar(GuestVm* guest, unsigned /*bar*/, uint64_t offset, uint32_t value) {
  switch (offset) {
    case kRaise:
      status_ |= value;
      Interrupt(guest);
      break;
    case kAcknowledge:
      status_ &= ~value;
      SetLine(guest, status_ != 0);
      if (fault_ == Fault::kSecondInterrupt) {
        fault_ = Fault::kNone;  // or the guest would be in its interrupt handler for good
        Interrupt(guest);
      }
      break;
    case kSource:
      source_ = value;
      break;
    case kDestination:
      destination_ = value;
      break;
    case kCount:
      count_bytes_ = value;
      break;
    case kCommand:
      if ((Config(kCommandRegister) & kBusMaster) == 0) return;
      DoDma(guest, (value & kToRam) != 0);
      status_ |= kDone | (fault_ == Fault::kOtherStatus ? 1 : 0);
      if (fault_ != Fault::kLostInterrupt) Interrupt(guest);
      break;
  }
}

void FakeEdu::DoDma(GuestVm* guest, bool to_ram) {
  const absl::StatusOr<absl::Span<uint8_t>> ram = guest->Ram(to_ram ? destination_ : source_, count_bytes_);
  if (!ram.ok() || count_bytes_ > buffer_.size()) return;
  if (!to_ram) {
    std::memcpy(buffer_.data(), ram->data(), count_bytes_);
    return;
  }
  std::memcpy(ram->data(), buffer_.data(), count_bytes_);
  if (fault_ == Fault::kWrongByte) (*ram)[kWrongOffset] ^= 0x10;
}

void FakeEdu::Interrupt(GuestVm* guest) {
  if ((Config(kMsi) & kMsiEnable) == 0) return SetLine(guest, true);
  guest->vm().SignalMsi({.address_lo = Config(kMsi + 4), .address_hi = 0, .data = Config(kMsi + 12)}).IgnoreError();
}

void FakeEdu::SetLine(GuestVm* guest, bool asserted) {
  if (intx_pin_.has_value()) guest->vm().IrqLine(*intx_pin_, asserted).IgnoreError();
}

}  // namespace cpr::testing
