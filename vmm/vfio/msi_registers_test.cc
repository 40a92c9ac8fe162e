#include "vmm/vfio/msi_registers.h"

#include <map>

#include "gtest/gtest.h"

namespace cpr {
namespace {

constexpr VfioConfigSpace::Msi kWide = {.offset = 0x50, .vectors = 8, .is_64 = true};
constexpr VfioConfigSpace::Msi kNarrow = {.offset = 0x50, .vectors = 8, .is_64 = false};

std::function<uint32_t(unsigned, unsigned)> Config(std::map<unsigned, uint32_t> values) {
  return [values = std::move(values)](unsigned offset, unsigned) { return values.at(offset); };
}

TEST(MsiRegistersTest, OffIsNothing) { EXPECT_EQ(ReadMsi(kWide, Config({{0x52, 0x0080}})), MsiRegisters()); }

TEST(MsiRegistersTest, AddressAndDataAreWhereTheWidthSays) {
  const MsiRegisters wide = ReadMsi(kWide, Config({{0x52, 0x0081}, {0x54, 0xfee01000}, {0x58, 7}, {0x5c, 0x41}}));
  EXPECT_EQ(wide, (MsiRegisters{1, {.address = 0x7fee01000, .data = 0x41}}));
  const MsiRegisters narrow = ReadMsi(kNarrow, Config({{0x52, 0x0001}, {0x54, 0xfee01000}, {0x58, 0x42}}));
  EXPECT_EQ(narrow, (MsiRegisters{1, {.address = 0xfee01000, .data = 0x42}}));
}

TEST(MsiRegistersTest, MoreVectorsThanThereAreAreCut) {
  const MsiRegisters all = ReadMsi(kNarrow, Config({{0x52, 0x0071}, {0x54, 0xfee00000}, {0x58, 0x40}}));
  EXPECT_EQ(all.vectors, 8u);
}

TEST(MsiRegistersTest, VectorsHaveTheirNumberInTheData) {
  const MsiRegisters two = {2, {.address = 0xfee00000, .data = 0x43}};
  const std::vector<MsixVectorState> table = MsiAsTable(two, 4);
  ASSERT_EQ(table.size(), 4u);
  EXPECT_EQ(table[0], (MsixVectorState{{.address = 0xfee00000, .data = 0x42}, false, false}));
  EXPECT_EQ(table[1], (MsixVectorState{{.address = 0xfee00000, .data = 0x43}, false, false}));
  EXPECT_TRUE(table[2].masked);
  EXPECT_EQ(MsiAsTable({}, 4), std::vector<MsixVectorState>(4));
}

}  // namespace
}  // namespace cpr
