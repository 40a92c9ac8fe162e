#include "vmm/acpi/dsdt.h"

#include "absl/strings/str_cat.h"
#include "vmm/acpi/aml.h"
#include "vmm/devices/acpi_pm.h"

namespace cpr {
namespace {

constexpr unsigned kPins = 4;
constexpr uint64_t kAnyFunction = 0xffff;

// The GSI of each slot's four pins.
std::string BuildPrt() {
  std::string entries;
  for (unsigned slot = 1; slot < kPciSlots; ++slot) {
    for (unsigned pin = 1; pin <= kPins; ++pin) {
      absl::StrAppend(&entries, aml::Package({aml::Integer(uint64_t{slot} << 16 | kAnyFunction), aml::Integer(pin - 1),
                                              aml::Integer(0), aml::Integer(PciIntxGsi(slot, pin))}));
    }
  }
  return aml::Package(entries, (kPciSlots - 1) * kPins);
}

std::string BuildPciRoot(const PciWindows& pci) {
  const auto first32 = static_cast<uint32_t>(pci.memory32.base);
  const auto last32 = static_cast<uint32_t>(pci.memory32.base + pci.memory32.size_bytes - 1);
  const uint64_t last64 = pci.memory64.base + pci.memory64.size_bytes - 1;
  const std::string window64 = pci.memory64.size_bytes == 0 ? "" : aml::MemoryWindow64(pci.memory64.base, last64);
  const std::string crs =
      aml::Resources({aml::BusWindow(0, 0), aml::Io(PciHost::kPort, PciHost::kPorts), aml::IoWindow(0, 0xcf7),
                      aml::IoWindow(0xd00, 0xffff), aml::MemoryWindow32(first32, last32), window64});
  return aml::Device(
      "PCI0", absl::StrCat(aml::Name("_HID", aml::EisaId("PNP0A08")), aml::Name("_CID", aml::EisaId("PNP0A03")),
                           aml::Name("_UID", aml::Integer(0)), aml::Name("_SEG", aml::Integer(0)),
                           aml::Name("_BBN", aml::Integer(0)), aml::Name("_CRS", crs), aml::Name("_PRT", BuildPrt())));
}

std::string BuildCom1() {
  return aml::Device("COM1", absl::StrCat(aml::Name("_HID", aml::EisaId("PNP0501")), aml::Name("_UID", aml::Integer(1)),
                                          aml::Name("_DDN", aml::String("COM1")),
                                          aml::Name("_CRS", aml::Resources({aml::Io(0x3f8, 8), aml::Irq(4)}))));
}

// What no device claims, but is not free.
std::string BuildMainboard(const PciWindows& pci) {
  const std::string crs =
      aml::Resources({aml::Memory32(static_cast<uint32_t>(pci.ecam.base), static_cast<uint32_t>(pci.ecam.size_bytes)),
                      aml::Io(AcpiPm::kPort, AcpiPm::kPorts)});
  return aml::Device("MBRD", absl::StrCat(aml::Name("_HID", aml::EisaId("PNP0C02")), aml::Name("_UID", aml::Integer(0)),
                                          aml::Name("_CRS", crs)));
}

std::string SleepState(absl::string_view name, unsigned type) {
  return aml::Name(name, aml::Package({aml::Integer(type), aml::Integer(0), aml::Integer(0), aml::Integer(0)}));
}

}  // namespace

std::string BuildDsdtBody(const AcpiConfig& config) {
  const std::string com1 = config.serial ? BuildCom1() : "";
  return absl::StrCat(aml::Scope("\\_SB", absl::StrCat(BuildPciRoot(config.pci), BuildMainboard(config.pci), com1)),
                      SleepState("\\_S3", AcpiPm::kSleepTypeS3), SleepState("\\_S5", AcpiPm::kSleepTypeS5));
}

}  // namespace cpr
