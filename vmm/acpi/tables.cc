#include "vmm/acpi/tables.h"

#include <cstring>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vmm/acpi/dsdt.h"
#include "vmm/devices/acpi_pm.h"
#include "vmm/devices/ioapic.h"
#include "vmm/devices/reset_control.h"

namespace cpr {
namespace {

constexpr char kOemId[] = "LIBCPR", kOemTableId[] = "CPR-VMM ";
constexpr uint32_t kLocalApicGpa = 0xfee00000;
constexpr uint8_t kRsdpBytes = 36, kFacsBytes = 64;

// A table in the making. Numbers are little-endian.
class Table {
 public:
  Table(absl::string_view signature, uint8_t revision) {
    absl::StrAppend(&bytes_, signature, std::string(4, '\0'));
    Put(revision, 1).Put(0, 1);
    absl::StrAppend(&bytes_, kOemId, kOemTableId);
    Put(1, 4);
    absl::StrAppend(&bytes_, "CPRV");
    Put(1, 4);
  }
  Table& Put(uint64_t value, unsigned size_bytes) {
    for (unsigned i = 0; i < size_bytes; ++i) bytes_.push_back(static_cast<char>(value >> (8 * i)));
    return *this;
  }
  Table& Append(absl::string_view bytes) {
    absl::StrAppend(&bytes_, bytes);
    return *this;
  }
  // A generic address structure of I/O ports, to be read by 1, 2 or 4 bytes.
  Table& PutPort(uint64_t port, unsigned size_bytes, unsigned access_bytes) {
    return Put(1, 1).Put(8 * size_bytes, 1).Put(0, 1).Put(access_bytes == 4 ? 3 : access_bytes, 1).Put(port, 8);
  }
  Table& PadTo(size_t size_bytes) {
    bytes_.resize(size_bytes);
    return *this;
  }
  // With length and checksum.
  std::string Finish() {
    const uint32_t length = static_cast<uint32_t>(bytes_.size());
    std::memcpy(&bytes_[4], &length, sizeof(length));
    bytes_[9] = 0;
    bytes_[9] = static_cast<char>(-std::accumulate(bytes_.begin(), bytes_.end(), 0));
    return bytes_;
  }

 private:
  std::string bytes_;
};

std::string BuildRsdp(uint64_t xsdt_gpa) {
  std::string rsdp = absl::StrCat("RSD PTR ", std::string(1, '\0'), kOemId, std::string(1, '\2'));
  rsdp.resize(kRsdpBytes);
  const uint32_t length = kRsdpBytes;
  std::memcpy(&rsdp[20], &length, sizeof(length));
  std::memcpy(&rsdp[24], &xsdt_gpa, sizeof(xsdt_gpa));
  rsdp[8] = static_cast<char>(-std::accumulate(rsdp.begin(), rsdp.begin() + 20, 0));
  rsdp[32] = static_cast<char>(-std::accumulate(rsdp.begin(), rsdp.end(), 0));
  return rsdp;
}

std::string BuildFacs() {
  std::string facs = "FACS";
  facs.resize(kFacsBytes);
  facs[4] = kFacsBytes;
  facs[32] = 2;  // version
  return facs;
}

std::string BuildFadt(uint64_t dsdt_gpa) {
  constexpr uint32_t kWbinvd = 1 << 0, kC1 = 1 << 2, kNoSleepButton = 1 << 5, kNoFixedRtcWake = 1 << 6,
                     kTimer32Bits = 1 << 8, kResetRegister = 1 << 10;
  constexpr uint16_t kLegacyDevices = 1 << 0, kNoVga = 1 << 2;
  constexpr uint8_t kResetValue = 6;
  Table fadt("FACP", 6);
  fadt.Put(kAcpiFacsGpa, 4).Put(dsdt_gpa, 4).Put(0, 1).Put(0, 1).Put(AcpiPm::kSciIrq, 2);
  fadt.Put(0, 4).Put(0, 4);  // no SMI command port: ACPI is always on
  fadt.Put(AcpiPm::kPort, 4).Put(0, 4).Put(AcpiPm::kPort + AcpiPm::kControlOffset, 4).Put(0, 4).Put(0, 4);
  fadt.Put(AcpiPm::kPort + AcpiPm::kTimerOffset, 4).Put(0, 8);
  fadt.Put(4, 1).Put(2, 1).Put(0, 1).Put(4, 1).Put(0, 4);  // lengths of the PM1 event, control and timer blocks
  fadt.Put(0xffff, 2).Put(0xffff, 2);                      // neither C2 nor C3
  fadt.PadTo(108).Put(0x32, 1);                            // the century's CMOS register
  fadt.Put(kLegacyDevices | kNoVga, 2).Put(0, 1);
  fadt.Put(kWbinvd | kC1 | kNoSleepButton | kNoFixedRtcWake | kTimer32Bits | kResetRegister, 4);
  fadt.PutPort(ResetControl::kResetControlPort, 1, 1).Put(kResetValue, 1).Put(0, 2).Put(3, 1);  // FADT 6.3
  fadt.Put(0, 8).Put(dsdt_gpa, 8);  // FACS by its 32-bit address
  fadt.PutPort(AcpiPm::kPort, 4, 2).PadTo(172).PutPort(AcpiPm::kPort + AcpiPm::kControlOffset, 2, 2).PadTo(208);
  fadt.PutPort(AcpiPm::kPort + AcpiPm::kTimerOffset, 4, 4).PadTo(276);
  return fadt.Finish();
}

std::string BuildMadt(const AcpiConfig& config) {
  constexpr uint16_t kActiveHighLevel = 0xd;
  Table madt("APIC", 4);
  madt.Put(kLocalApicGpa, 4).Put(config.kernel_irqchip ? 1 : 0, 4);
  for (uint32_t id = 0; id < config.vcpus; ++id) {
    if (id < 255) {
      madt.Put(0, 1).Put(8, 1).Put(id, 1).Put(id, 1).Put(1, 4);
    } else {
      madt.Put(9, 1).Put(16, 1).Put(0, 2).Put(id, 4).Put(1, 4).Put(id, 4);
    }
  }
  madt.Put(1, 1).Put(12, 1).Put(0, 1).Put(0, 1).Put(Ioapic::kGpa, 4).Put(0, 4);
  madt.Put(2, 1).Put(10, 1).Put(0, 1).Put(AcpiPm::kSciIrq, 1).Put(AcpiPm::kSciIrq, 4).Put(kActiveHighLevel, 2);
  madt.Put(4, 1).Put(6, 1).Put(0xff, 1).Put(0, 2).Put(1, 1);  // NMI at LINT1 of all
  return madt.Finish();
}

std::string BuildMcfg(const PciWindows& pci) {
  return Table("MCFG", 1).Put(0, 8).Put(pci.ecam.base, 8).Put(0, 2).Put(0, 1).Put(0, 1).Put(0, 4).Finish();
}

}  // namespace

std::string BuildAcpiTables(const AcpiConfig& config) {
  std::string bytes(kAcpiFacsGpa - kAcpiTablesGpa, '\0');
  bytes += BuildFacs();
  const auto add = [&bytes](const std::string& table) {
    bytes.resize((bytes.size() + 15) / 16 * 16);
    const uint64_t gpa = kAcpiTablesGpa + bytes.size();
    bytes += table;
    return gpa;
  };
  const uint64_t dsdt = add(Table("DSDT", 2).Append(BuildDsdtBody(config)).Finish());
  Table xsdt("XSDT", 1);
  xsdt.Put(add(BuildFadt(dsdt)), 8).Put(add(BuildMadt(config)), 8).Put(add(BuildMcfg(config.pci)), 8);
  const uint64_t xsdt_gpa = add(xsdt.Finish());
  bytes.replace(0, kRsdpBytes, BuildRsdp(xsdt_gpa));
  return bytes;
}

}  // namespace cpr
