#include "vmm/devices/attach.h"

#include <string>

#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;

TEST(AttachTest, EachDeviceAnswersAtItsPlace) {
  std::string sent;
  Serial serial(
      {.irq = [](bool) {}, .output = [&](absl::string_view bytes) { sent += std::string(bytes); }, .room = {}});
  Cmos cmos({.ram_below_4g_bytes = 1 << 30, .ram_above_4g_bytes = 0, .utc = [] { return absl::UnixEpoch(); }});
  int resets = 0;
  ResetControl reset_control([&] { ++resets; });
  Ioapic ioapic({.send_msi = [](const MsiMessage&) {}, .routes_changed = [] {}, .pin_eoi = {}});
  Bus ports, memory;
  ASSERT_THAT(AttachSerial(serial, kCom1Port, ports), IsOk());
  ASSERT_THAT(AttachCmos(cmos, ports), IsOk());
  ASSERT_THAT(AttachResetControl(reset_control, ports), IsOk());
  ASSERT_THAT(AttachIoapic(ioapic, memory), IsOk());

  ports.Write(0x3f8, 1, 'x');
  EXPECT_EQ(sent, "x");
  EXPECT_EQ(ports.Read(0x3fd, 1), 0x60u);
  ports.Write(0x70, 2, 0xaa10 | 0x5500);  // one word: index 0x10 and its value
  EXPECT_EQ(ports.Read(0x71, 1), 0xffu);
  ports.Write(0x64, 1, 0xfe);
  ports.Write(0xcf9, 1, 0x06);
  EXPECT_EQ(resets, 2);
  memory.Write(0xfec00000, 4, 1);
  EXPECT_EQ(memory.Read(0xfec00010, 4), 0x170020u);
}

}  // namespace
}  // namespace cpr
