#ifndef VMM_ACPI_DSDT_H_
#define VMM_ACPI_DSDT_H_

#include <string>

#include "vmm/acpi/tables.h"

namespace cpr {

// The DSDT's AML: PCI root, COM1, what the chipset takes for itself, and sleep states.
std::string BuildDsdtBody(const AcpiConfig& config);

}  // namespace cpr

#endif  // VMM_ACPI_DSDT_H_
