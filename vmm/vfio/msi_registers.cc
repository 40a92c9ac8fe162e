#include "vmm/vfio/msi_registers.h"

#include <algorithm>

namespace cpr {
namespace {

constexpr unsigned kControl = 2, kAddress = 4, kData32 = 8, kAddressHigh = 8, kData64 = 12;
constexpr uint32_t kEnable = 1;
constexpr unsigned kMultipleEnableShift = 4, kMultipleEnableMask = 7;

}  // namespace

MsiRegisters ReadMsi(const VfioConfigSpace::Msi& capability,
                     const std::function<uint32_t(unsigned offset, unsigned size_bytes)>& config) {
  const uint32_t control = config(capability.offset + kControl, 2);
  if ((control & kEnable) == 0) return {};
  MsiRegisters registers;
  registers.vectors = std::min(1u << (control >> kMultipleEnableShift & kMultipleEnableMask), capability.vectors);
  registers.message.address = config(capability.offset + kAddress, 4);
  if (capability.is_64) registers.message.address |= uint64_t{config(capability.offset + kAddressHigh, 4)} << 32;
  registers.message.data = config(capability.offset + (capability.is_64 ? kData64 : kData32), 2);
  return registers;
}

std::vector<MsixVectorState> MsiAsTable(const MsiRegisters& registers, unsigned size) {
  std::vector<MsixVectorState> table(size);
  for (unsigned i = 0; i < std::min(registers.vectors, size); ++i) {
    table[i] = {.message = registers.message, .masked = false};
    table[i].message.data = (registers.message.data & ~(registers.vectors - 1)) | i;
  }
  return table;
}

}  // namespace cpr
