#include "tests/guest/fake_function.h"

#include <cstring>

namespace cpr::testing {
namespace {

constexpr uint32_t kFunction = 3 << 3;
constexpr uint16_t kAddressPort = 0xcf8, kDataPort = 0xcfc;
constexpr unsigned kCommand = 0x04, kBar0 = 0x10;

}  // namespace

FakeFunction::FakeFunction(uint32_t ids) {
  AddConfig(0, ids, 0);
  AddConfig(kCommand, 0, 0xffff);
}

void FakeFunction::AddBar(unsigned bar, uint32_t size_bytes) {
  bar_bytes_[bar] = size_bytes;
  AddConfig(kBar0 + 4 * bar, 0, ~(size_bytes - 1));
}

void FakeFunction::AddConfig(unsigned offset, uint32_t value, uint32_t writable) {
  config_[offset / 4] = value;
  writable_[offset / 4] = writable;
}

// A null `value` reads.
uint32_t FakeFunction::AccessConfig(GuestVm* guest, const uint32_t* value) {
  if ((config_address_ >> 8 & 0xffff) != kFunction) return ~0u;
  const unsigned index = (config_address_ & 0xff) / 4;
  if (value != nullptr) {
    config_[index] = (config_[index] & ~writable_[index]) | (*value & writable_[index]);
    ConfigWritten(guest);
  }
  return config_[index];
}

bool FakeFunction::Serve(GuestVm* guest, kvm_run* run) {
  if (run->exit_reason == KVM_EXIT_IO && run->io.size == 4 &&
      (run->io.port == kAddressPort || run->io.port == kDataPort)) {
    uint32_t* data = reinterpret_cast<uint32_t*>(reinterpret_cast<uint8_t*>(run) + run->io.data_offset);
    if (run->io.port == kAddressPort) {
      config_address_ = *data;
    } else if (run->io.direction == KVM_EXIT_IO_IN) {
      *data = AccessConfig(guest, nullptr);
    } else {
      AccessConfig(guest, data);
    }
    return true;
  }
  if (run->exit_reason != KVM_EXIT_MMIO || (Config(kCommand) & kMemory) == 0 || run->mmio.len != 4) return false;
  for (unsigned bar = 0; bar < bar_bytes_.size(); ++bar) {
    const uint64_t offset = run->mmio.phys_addr - Config(kBar0 + 4 * bar);
    if (offset >= bar_bytes_[bar]) continue;
    uint32_t value = 0;
    std::memcpy(&value, run->mmio.data, 4);
    if (run->mmio.is_write != 0) {
      WriteBar(guest, bar, offset, value);
    } else {
      value = ReadBar(guest, bar, offset);
      std::memcpy(run->mmio.data, &value, 4);
    }
    return true;
  }
  return false;
}

}  // namespace cpr::testing
