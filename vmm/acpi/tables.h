#ifndef VMM_ACPI_TABLES_H_
#define VMM_ACPI_TABLES_H_

#include <cstdint>
#include <string>

#include "vmm/pci/pci_host.h"

// The ACPI tables of the machine: RSDP, XSDT, FADT, FACS, DSDT, MADT and MCFG. Source: ACPI 6.4, chapter 5.

namespace cpr {

// Where they lie: in what a PC's firmware keeps for itself, which the guest's memory map says.
inline constexpr uint64_t kAcpiTablesGpa = 0xe0000;
inline constexpr uint64_t kAcpiTablesLimitBytes = 0x20000;
// The RSDP comes first, the FACS, which the guest writes, at a place of its own.
inline constexpr uint64_t kAcpiRsdpGpa = kAcpiTablesGpa;
inline constexpr uint64_t kAcpiFacsGpa = kAcpiTablesGpa + 0x40;
inline constexpr uint64_t kFacsWakingVectorOffset = 12;

// What the tables tell of. A plain value.
struct AcpiConfig {
  uint32_t vcpus = 1;
  bool kernel_irqchip = false;  // there are two 8259s
  bool serial = false;          // there is COM1
  PciWindows pci;
};

// All tables, as they stand in RAM from kAcpiTablesGpa on.
std::string BuildAcpiTables(const AcpiConfig& config);

}  // namespace cpr

#endif  // VMM_ACPI_TABLES_H_
