#include "vmm/vfio/config_space.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

constexpr unsigned kPower = 0x40, kMsi = 0x50, kMsix = 0x70, kExpress = 0x80;

// As that of a function with four capabilities, every other byte being 0x5a.
std::vector<uint8_t> Device() {
  std::vector<uint8_t> device(VfioConfigSpace::kBytes, 0x5a);
  const auto put = [&](unsigned offset, std::vector<uint8_t> bytes) {
    std::copy(bytes.begin(), bytes.end(), device.begin() + offset);
  };
  put(0x00, {0x34, 0x12, 0xe8, 0x11, 0x07, 0x04, 0x10, 0x00});
  put(0x0e, {0x80});  // several functions
  put(0x34, {kPower});
  put(kPower, {0x01, kMsi, 0x03, 0x00, 0x0b, 0x01, 0x00, 0x00});
  put(kMsi, {0x05, kMsix, 0x80, 0x00});
  put(kMsix, {0x11, kExpress, 0x04, 0xc0, 0x03, 0x20, 0x00, 0x00, 0x04, 0x30, 0x00, 0x00});
  put(kExpress, {0x10, 0x00, 0x02, 0x00});
  return device;
}

TEST(ConfigSpaceTest, IdentityIsTheDevices) {
  CPR_ASSERT_OK_AND_ASSIGN(const VfioConfigSpace shown, ShowConfigSpace(Device()));
  EXPECT_EQ(shown.bytes[0], 0x34);
  EXPECT_EQ(shown.bytes[3], 0x11);
  EXPECT_EQ(shown.writable[0], 0);
}

TEST(ConfigSpaceTest, AddressesInterruptsAndCommandAreOurs) {
  CPR_ASSERT_OK_AND_ASSIGN(const VfioConfigSpace shown, ShowConfigSpace(Device()));
  for (const unsigned offset : {0x04, 0x05, 0x10, 0x27, 0x30, 0x33, 0x3c, 0x3d}) {
    EXPECT_EQ(shown.ours[offset], 0xff) << std::hex << offset;
    EXPECT_EQ(shown.bytes[offset], 0) << std::hex << offset;
  }
  EXPECT_EQ(shown.writable[0x3c], 0xff) << "the interrupt line is memory for the guest";
  EXPECT_EQ(shown.bytes[0x0e], 0) << "the function is alone in its slot";
}

TEST(ConfigSpaceTest, WhatChangesByItselfIsTheDevices) {
  CPR_ASSERT_OK_AND_ASSIGN(const VfioConfigSpace shown, ShowConfigSpace(Device()));
  for (const unsigned offset : {0x06, 0x07, 0x60, 0x88, 0xff}) {
    EXPECT_EQ(shown.ours[offset], 0) << std::hex << offset;
    EXPECT_EQ(shown.bytes[offset], 0) << "would be saved";
  }
}

TEST(ConfigSpaceTest, CapabilitiesStayInTheirPlaces) {
  CPR_ASSERT_OK_AND_ASSIGN(const VfioConfigSpace shown, ShowConfigSpace(Device()));
  EXPECT_EQ(shown.bytes[0x34], kPower);
  EXPECT_EQ(shown.bytes[kPower + 1], kMsi);
  EXPECT_EQ(shown.bytes[kMsi + 1], kMsix);
  EXPECT_EQ(shown.bytes[kMsix + 1], kExpress);
}

TEST(ConfigSpaceTest, MsiIsFoundAndOffWithoutItsMasks) {
  std::vector<uint8_t> device = Device();
  device[kMsi + 2] = 0x95;  // on, 2 vectors of 4, 64 bits
  device[kMsi + 3] = 0x01;  // with masks
  CPR_ASSERT_OK_AND_ASSIGN(const VfioConfigSpace shown, ShowConfigSpace(device));
  ASSERT_TRUE(shown.msi.has_value());
  EXPECT_EQ(shown.msi->offset, kMsi);
  EXPECT_EQ(shown.msi->vectors, 4u);
  EXPECT_TRUE(shown.msi->is_64);
  EXPECT_EQ(shown.bytes[kMsi + 2], 0x84);
  EXPECT_EQ(shown.writable[kMsi + 2], 0x71);
  EXPECT_EQ(shown.bytes[kMsi + 3], 0);
  EXPECT_EQ(shown.writable[kMsi + 4], 0xfc) << "address";
  EXPECT_EQ(shown.writable[kMsi + 13], 0xff) << "data";
  EXPECT_EQ(shown.ours[kMsi + 14], 0xff);
  EXPECT_EQ(shown.writable[kMsi + 16], 0) << "masks";
}

TEST(ConfigSpaceTest, MsixIsFoundAndOff) {
  CPR_ASSERT_OK_AND_ASSIGN(const VfioConfigSpace shown, ShowConfigSpace(Device()));
  ASSERT_TRUE(shown.msix.has_value());
  EXPECT_EQ(shown.msix->offset, kMsix);
  EXPECT_EQ(shown.msix->vectors, 5u);
  EXPECT_EQ(shown.msix->table_bar, 3u);
  EXPECT_EQ(shown.msix->table_offset, 0x2000u);
  EXPECT_EQ(shown.msix->pba_bar, 4u);
  EXPECT_EQ(shown.msix->pba_offset, 0x3000u);
  EXPECT_EQ(shown.bytes[kMsix + 3], 0);
  EXPECT_EQ(shown.writable[kMsix + 3], 0xc0);
}

TEST(ConfigSpaceTest, PowerStatesAreOursSoThatTheFunctionStaysAwake) {
  CPR_ASSERT_OK_AND_ASSIGN(const VfioConfigSpace shown, ShowConfigSpace(Device()));
  EXPECT_EQ(shown.ours[kPower + 4], 0xff);
  EXPECT_EQ(shown.bytes[kPower + 4], 0) << "awake";
  EXPECT_EQ(shown.writable[kPower + 4], 3);
}

TEST(ConfigSpaceTest, ExpressEndpointIsTheRootComplexs) {
  CPR_ASSERT_OK_AND_ASSIGN(const VfioConfigSpace shown, ShowConfigSpace(Device()));
  EXPECT_EQ(shown.bytes[kExpress + 2], 0x92);
}

TEST(ConfigSpaceTest, ListWithoutEndIsRefused) {
  std::vector<uint8_t> device = Device();
  device[kExpress + 1] = kPower;
  EXPECT_THAT(ShowConfigSpace(device), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("no end")));
  device[kExpress + 1] = 0x10;
  EXPECT_THAT(ShowConfigSpace(device), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("0x10")));
}

TEST(ConfigSpaceTest, CapabilityThatLeavesTheSpaceIsRefused) {
  std::vector<uint8_t> device = Device();
  device[kExpress + 1] = 0xf8;
  device[0xf8] = 0x11;
  device[0xf9] = 0;
  EXPECT_THAT(ShowConfigSpace(device), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("0xf8")));
}

TEST(ConfigSpaceTest, BridgesAndShortSpacesAreRefused) {
  std::vector<uint8_t> device = Device();
  device[0x0e] = 1;
  EXPECT_THAT(ShowConfigSpace(device), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("bridge")));
  device.resize(64);
  EXPECT_THAT(ShowConfigSpace(device), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("64")));
}

}  // namespace
}  // namespace cpr
