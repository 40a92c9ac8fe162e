#ifndef VMM_ACPI_AML_H_
#define VMM_ACPI_AML_H_

#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/strings/string_view.h"

// A small assembler for ACPI Machine Language: each function returns the bytes of one object, and objects nest by
// concatenation. Names are at most four characters a segment, "\\_SB.PCI0". Source: ACPI 6.4, chapters 6.4 and 20.

namespace cpr::aml {

std::string Integer(uint64_t value);
std::string String(absl::string_view text);
// "PNP0A08" as the number that _HID wants.
std::string EisaId(absl::string_view id);
std::string Buffer(absl::string_view bytes);
// At most 255 elements.
std::string Package(std::initializer_list<std::string> elements);
std::string Package(absl::string_view elements, uint8_t count);
std::string Name(absl::string_view name, absl::string_view object);
std::string Scope(absl::string_view name, absl::string_view body);
std::string Device(absl::string_view name, absl::string_view body);

// Resource descriptors, and the buffer that _CRS returns of some of them.
std::string Resources(std::initializer_list<std::string> descriptors);
std::string Io(uint16_t base, uint8_t size);
std::string Irq(unsigned number);  // an ISA edge
std::string Memory32(uint32_t base, uint32_t size_bytes);
// Windows that a bridge passes on, all bounds fixed. `last` is inclusive.
std::string BusWindow(uint16_t first, uint16_t last);
std::string IoWindow(uint16_t first, uint16_t last);
std::string MemoryWindow32(uint32_t first, uint32_t last);
std::string MemoryWindow64(uint64_t first, uint64_t last);

}  // namespace cpr::aml

#endif  // VMM_ACPI_AML_H_
