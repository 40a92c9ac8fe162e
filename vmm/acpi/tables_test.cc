#include "vmm/acpi/tables.h"

#include <cstring>
#include <map>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "vmm/acpi/aml.h"

namespace cpr {
namespace {

template <typename T>
T At(absl::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

int Sum(absl::string_view bytes) { return std::accumulate(bytes.begin(), bytes.end(), 0) & 0xff; }

// Follows the pointers as a guest would.
class Reader {
 public:
  explicit Reader(const AcpiConfig& config) : bytes_(BuildAcpiTables(config)) {
    const absl::string_view rsdp = absl::string_view(bytes_).substr(kAcpiRsdpGpa - kAcpiTablesGpa, 36);
    EXPECT_EQ(rsdp.substr(0, 8), "RSD PTR ");
    EXPECT_EQ(Sum(rsdp.substr(0, 20)), 0);
    EXPECT_EQ(Sum(rsdp), 0);
    const absl::string_view xsdt = Add(At<uint64_t>(rsdp, 24));
    for (size_t at = 36; at < xsdt.size(); at += 8) Add(At<uint64_t>(xsdt, at));
    Add(At<uint64_t>(table("FACP"), 140));
  }
  absl::string_view table(const std::string& signature) { return tables_.at(signature); }
  size_t size() const { return bytes_.size(); }

 private:
  absl::string_view Add(uint64_t gpa) {
    const absl::string_view rest = absl::string_view(bytes_).substr(gpa - kAcpiTablesGpa);
    const absl::string_view table = rest.substr(0, At<uint32_t>(rest, 4));
    EXPECT_EQ(Sum(table), 0) << table.substr(0, 4);
    tables_[std::string(table.substr(0, 4))] = table;
    return table;
  }
  const std::string bytes_;
  std::map<std::string, absl::string_view> tables_;
};

TEST(AcpiTablesTest, EveryTableIsThere) {
  Reader reader({.vcpus = 4, .serial = true, .pci = PciWindowsAbove(0)});
  for (const char* name : {"XSDT", "FACP", "APIC", "MCFG", "DSDT"}) EXPECT_FALSE(reader.table(name).empty());
  EXPECT_EQ(reader.table("FACP").size(), 276u);
  EXPECT_EQ(At<uint32_t>(reader.table("FACP"), 36), kAcpiFacsGpa);
  EXPECT_EQ(At<uint64_t>(reader.table("MCFG"), 44), 0xe0000000u);
}

TEST(AcpiTablesTest, FixedRegistersAreWhereTheDeviceIs) {
  Reader reader({.pci = PciWindowsAbove(0)});
  const absl::string_view fadt = reader.table("FACP");
  EXPECT_EQ(At<uint16_t>(fadt, 46), 9);
  EXPECT_EQ(At<uint32_t>(fadt, 56), 0x600u);
  EXPECT_EQ(At<uint32_t>(fadt, 64), 0x604u);
  EXPECT_EQ(At<uint32_t>(fadt, 76), 0x608u);
  EXPECT_EQ(At<uint64_t>(fadt, 120), 0xcf9u);
  EXPECT_EQ(fadt[128], 6);
  EXPECT_EQ(At<uint64_t>(fadt, 152), 0x600u);
  EXPECT_EQ(At<uint64_t>(fadt, 176), 0x604u);
  EXPECT_EQ(At<uint64_t>(fadt, 212), 0x608u);
}

TEST(AcpiTablesTest, MadtListsEveryCpu) {
  Reader few({.vcpus = 3, .pci = PciWindowsAbove(0)}), many({.vcpus = 300, .pci = PciWindowsAbove(0)});
  const size_t others = 44 + 12 + 10 + 6;
  EXPECT_EQ(few.table("APIC").size(), others + 3 * 8);
  EXPECT_EQ(many.table("APIC").size(), others + 255 * 8 + 45 * 16);
  EXPECT_LT(many.size(), kAcpiTablesLimitBytes);
}

TEST(AcpiTablesTest, DsdtTellsOfWhatThereIs) {
  Reader with({.serial = true, .pci = PciWindowsAbove(0)}), without({.pci = PciWindowsAbove(0)});
  for (const char* name : {"PCI0", "_CRS", "_PRT", "MBRD", "\\_S3_", "\\_S5_"}) {
    EXPECT_TRUE(absl::StrContains(without.table("DSDT"), name)) << name;
  }
  EXPECT_TRUE(absl::StrContains(with.table("DSDT"), "COM1"));
  EXPECT_FALSE(absl::StrContains(without.table("DSDT"), "COM1"));
}

TEST(AmlTest, NumbersTakeTheirShortestForm) {
  EXPECT_EQ(aml::Integer(0), std::string(1, '\0'));
  EXPECT_EQ(aml::Integer(1), "\x01");
  EXPECT_EQ(aml::Integer(0x12), "\x0a\x12");
  EXPECT_EQ(aml::Integer(0x1234), "\x0b\x34\x12");
  EXPECT_EQ(aml::Integer(0x12345678), "\x0c\x78\x56\x34\x12");
  EXPECT_EQ(aml::Integer(0x123456789a).size(), 9u);
}

TEST(AmlTest, NamesAndLengths) {
  EXPECT_EQ(aml::EisaId("PNP0A03"), "\x0c\x41\xd0\x0a\x03");
  EXPECT_EQ(aml::Scope("\\_SB", ""), "\x10\x06\\_SB_");
  EXPECT_EQ(aml::Scope("\\_SB.PCI0", ""), absl::StrCat("\x10\x0b\\", "\x2e", "_SB_PCI0"));
  const std::string large = aml::Scope("A", std::string(100, '\x01'));
  EXPECT_EQ(large.substr(1, 2), "\x4a\x06");  // 106 = 0x6a: low nibble with the count of bytes that follow
}

}  // namespace
}  // namespace cpr
