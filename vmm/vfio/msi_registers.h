#ifndef VMM_VFIO_MSI_REGISTERS_H_
#define VMM_VFIO_MSI_REGISTERS_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "vmm/devices/msi_message.h"
#include "vmm/pci/msix.h"
#include "vmm/vfio/config_space.h"

namespace cpr {

// What a guest has written into an MSI capability. A plain value. Source: PCI Local Bus 3.0, 6.8.1.
struct MsiRegisters {
  unsigned vectors = 0;  // a power of two; 0: MSI is off
  MsiMessage message;    // of the first vector; the others' have their number in the low bits of the data

  friend bool operator==(const MsiRegisters&, const MsiRegisters&) = default;
};

// `config` reads 2 or 4 bytes of configuration space. More vectors than the capability has are cut to those.
MsiRegisters ReadMsi(const VfioConfigSpace::Msi& capability,
                     const std::function<uint32_t(unsigned offset, unsigned size_bytes)>& config);

// The same as an MSI-X table of `size` entries: those that are not in use are masked.
std::vector<MsixVectorState> MsiAsTable(const MsiRegisters& registers, unsigned size);

}  // namespace cpr

#endif  // VMM_VFIO_MSI_REGISTERS_H_
