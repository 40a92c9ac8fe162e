#include "tests/guest/fake_edu.h"

#include <cstring>

namespace cpr::testing {
namespace {

constexpr uint32_t kFunction = 3 << 3, kIds = 0x11e81234, kBarBytes = 1 << 20, kMsiOffset = 0x40;
constexpr uint32_t kMsi64Bit = 1 << 23, kMsiEnable = 1 << 16;
constexpr uint32_t kMemory = 2, kBusMaster = 4;
constexpr uint32_t kStatus = 0x24, kAcknowledge = 0x64, kSource = 0x80, kDestination = 0x88, kCount = 0x90,
                   kCommand = 0x98;
constexpr uint32_t kToRam = 2, kDone = 0x100;

}  // namespace

uint32_t FakeEdu::ReadConfig(uint32_t address) const {
  if ((address >> 8 & 0xffff) != kFunction) return ~0u;
  switch (address & 0xff) {
    case 0x00:
      return kIds;
    case 0x04:
      return command_ | (has_msi_ ? 0x10 << 16 : 0);
    case 0x10:
      return bar_;
    case 0x34:
      return has_msi_ ? kMsiOffset : 0;
    case kMsiOffset:
      return has_msi_ ? 5 | kMsi64Bit | msi_control_ : 0;
    default:
      return 0;
  }
}

void FakeEdu::WriteConfig(uint32_t address, uint32_t value) {
  if ((address >> 8 & 0xffff) != kFunction) return;
  switch (address & 0xff) {
    case 0x04:
      command_ = value & 0xffff;
      break;
    case 0x10:
      bar_ = value & ~(kBarBytes - 1);
      break;
    case kMsiOffset:
      msi_control_ = value & kMsiEnable;
      break;
    case kMsiOffset + 4:
      msi_address_ = value;
      break;
    case kMsiOffset + 12:
      msi_data_ = value;
      break;
  }
}

uint32_t FakeEdu::ReadRegister(uint64_t offset) const {
  if (offset == 0) return 0x010000ed;
  return offset == kStatus ? status_ : 0;  // and a command that is done
}

void FakeEdu::WriteRegister(GuestVm* guest, uint64_t offset, uint32_t value) {
  switch (offset) {
    case kAcknowledge:
      status_ &= ~value;
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
      if ((command_ & kBusMaster) == 0) return;
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
  if ((msi_control_ & kMsiEnable) == 0) return;
  guest->vm().SignalMsi({.address_lo = msi_address_, .address_hi = 0, .data = msi_data_}).IgnoreError();
}

bool FakeEdu::Serve(GuestVm* guest, kvm_run* run) {
  if (run->exit_reason == KVM_EXIT_IO && run->io.size == 4 && (run->io.port == 0xcf8 || run->io.port == 0xcfc)) {
    uint32_t* data = reinterpret_cast<uint32_t*>(reinterpret_cast<uint8_t*>(run) + run->io.data_offset);
    if (run->io.port == 0xcf8) {
      config_address_ = *data;
    } else if (run->io.direction == KVM_EXIT_IO_IN) {
      *data = ReadConfig(config_address_);
    } else {
      WriteConfig(config_address_, *data);
    }
    return true;
  }
  if (run->exit_reason != KVM_EXIT_MMIO || (command_ & kMemory) == 0 || run->mmio.len != 4) return false;
  const uint64_t offset = run->mmio.phys_addr - bar_;
  if (offset >= kBarBytes) return false;
  uint32_t value = 0;
  std::memcpy(&value, run->mmio.data, 4);
  if (run->mmio.is_write != 0) {
    WriteRegister(guest, offset, value);
  } else {
    value = ReadRegister(offset);
    std::memcpy(run->mmio.data, &value, 4);
  }
  return true;
}

}  // namespace cpr::testing
