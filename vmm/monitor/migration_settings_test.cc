#include "vmm/monitor/migration_settings.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;

Channels Main(const std::string& uri) {
  auto address = ParseUri(uri);
  EXPECT_THAT(address, IsOk()) << uri;
  return Channels{*address, std::nullopt};
}

Channels WithCpr(const std::string& uri) {
  Channels channels = Main(uri);
  channels.cpr = Address{.transport = Transport::kUnix, .path = "cpr.sock"};
  return channels;
}

TEST(MigrationSettingsTest, StartsNormal) {
  const MigrationSettings settings;
  EXPECT_EQ(settings.mode_name(), "normal");
  EXPECT_FALSE(settings.ignore_shared());
  EXPECT_EQ(settings.CheckOutgoing(Main("file:x")).message(),
            "mode normal is live migration, which this program does not do; set mode to cpr-reboot, cpr-transfer, "
            "cpr-exec or cpr-luo");
}

TEST(MigrationSettingsTest, TakesQemusNames) {
  MigrationSettings settings;
  for (const std::string mode : {"cpr-reboot", "cpr-transfer", "cpr-exec", "cpr-luo", "normal"}) {
    EXPECT_THAT(settings.SetMode(mode), IsOk());
    EXPECT_EQ(settings.mode_name(), mode);
  }
  EXPECT_EQ(settings.SetMode("cpr").message(), "Parameter 'mode' does not accept value 'cpr'");
  EXPECT_THAT(settings.SetCapability("x-ignore-shared", true), IsOk());
  EXPECT_TRUE(settings.ignore_shared());
  EXPECT_FALSE(settings.mapped_restore());
  EXPECT_THAT(settings.SetCapability("x-mapped-restore", true), IsOk());
  EXPECT_TRUE(settings.mapped_restore());
}

TEST(MigrationSettingsTest, RefusesCapabilitiesThatExcludeCpr) {
  const struct {
    std::string capability;
    std::string message;
  } kCases[] = {
      {"postcopy-ram", "Cannot use postcopy with CPR"},
      {"background-snapshot", "Cannot use background snapshot with CPR"},
      {"x-colo", "Cannot use COLO with CPR"},
      {"xbzrle", "Parameter 'capability' does not accept value 'xbzrle'"},
  };
  MigrationSettings settings;
  for (const auto& c : kCases) EXPECT_EQ(settings.SetCapability(c.capability, true).message(), c.message);
  EXPECT_THAT(settings.SetCapability("postcopy-ram", false), IsOk());
}

struct ChannelCase {
  Channels channels;
  std::string message;  // empty: accepted
};

TEST(MigrationSettingsTest, ChecksChannelsOfReboot) {
  MigrationSettings settings;
  ASSERT_THAT(settings.SetMode("cpr-reboot"), IsOk());
  const ChannelCase kCases[] = {
      {Main("file:vm.state"), ""},
      {Main("exec:cat > x"), ""},
      {Main("fd:7"), ""},
      {Main("unix:s"),
       "unix:s cannot be used with cpr-reboot: it is a stream, and the old program is gone before the new one reads; "
       "use "
       "file: or exec:"},
      {Main("tcp:0:1"),
       "tcp:0:1 cannot be used with cpr-reboot: it is a stream, and the old program is gone before the new one reads; "
       "use "
       "file: or exec:"},
      {Main("memfd:"), "memfd: can be used with cpr-exec only"},
      {Main("luo:s"), "luo:s can be used with cpr-luo only"},
      {WithCpr("file:x"), "the 'cpr' channel is for cpr-transfer, and mode is cpr-reboot"},
  };
  for (const ChannelCase& c : kCases) EXPECT_EQ(settings.CheckOutgoing(c.channels).message(), c.message);
}

TEST(MigrationSettingsTest, ChecksChannelsOfTransfer) {
  MigrationSettings settings;
  ASSERT_THAT(settings.SetMode("cpr-transfer"), IsOk());
  const ChannelCase kCases[] = {
      {WithCpr("tcp:0:44444"), ""},
      {WithCpr("unix:s"), ""},
      {Main("unix:s"), "missing 'cpr' migration channel"},
      {WithCpr("file:x"), "Migration requires streamable transport (eg unix)"},
      {WithCpr("memfd:"), "Migration requires streamable transport (eg unix)"},
      {WithCpr("fd:main"), ""},
      {WithCpr("exec:cat"),
       "exec:cat cannot be used with cpr-transfer: the guest would stand still while a command passes its state on; "
       "use unix:, tcp: or fd:"},
      {WithCpr("tcp:h:0"), "tcp:h:0: the port may not be 0, the peer could not know it"},
  };
  for (const ChannelCase& c : kCases) EXPECT_EQ(settings.CheckOutgoing(c.channels).message(), c.message);
}

TEST(MigrationSettingsTest, ChecksCommandAndChannelsOfExec) {
  MigrationSettings settings;
  ASSERT_THAT(settings.SetMode("cpr-exec"), IsOk());
  EXPECT_EQ(settings.CheckOutgoing(Main("memfd:")).message(), "cpr-exec mode requires setting cpr-exec-command");
  settings.SetExecCommand({"cpr-vmm", "-m", "1G"});
  EXPECT_EQ(settings.CheckOutgoing(Main("memfd:")).message(),
            "cpr-exec-command has no -incoming: the new program would start another guest");
  settings.SetExecCommand({"numactl", "cpr-vmm", "-incoming", "memfd:"});
  const ChannelCase kCases[] = {
      {Main("memfd:"), ""},
      {Main("file:x"),
       "cpr-exec-command has -incoming memfd:, but the state goes to file:x: give the same in both places"},
      {Main("file:x,offset=4096"),
       "file:x,offset=4096: cpr-exec needs a file of its own for the state, without an offset, or memfd:"},
      {Main("tcp:0:1"),
       "tcp:0:1 cannot be used with cpr-exec: it is a stream, and the old program is gone before the new one reads; "
       "use "
       "memfd: or file:"},
      {Main("exec:cat"),
       "exec:cat cannot be used with cpr-exec: it is a stream, and the old program is gone before the new one reads; "
       "use memfd: or file:"},
      {Main("fd:7"),
       "fd:7 cannot be used with cpr-exec: it is a stream, and the old program is gone before the new one reads; "
       "use memfd: or file:"},
      {Main("luo:s"), "luo:s can be used with cpr-luo only"},
      {WithCpr("memfd:"), "the 'cpr' channel is for cpr-transfer, and mode is cpr-exec"},
  };
  for (const ChannelCase& c : kCases) EXPECT_EQ(settings.CheckOutgoing(c.channels).message(), c.message);
}

TEST(MigrationSettingsTest, ChecksChannelsOfLuo) {
  MigrationSettings settings;
  ASSERT_THAT(settings.SetMode("cpr-luo"), IsOk());
  EXPECT_THAT(settings.CheckOutgoing(Main("luo:vm1")), IsOk());
  for (const std::string uri : {"file:x", "exec:cat", "fd:7", "tcp:0:1", "unix:s", "memfd:"}) {
    EXPECT_EQ(settings.CheckOutgoing(Main(uri)).message(),
              uri + " cannot be used with cpr-luo: the state lies beside the RAM, in a session; use luo:SESSION");
  }
  EXPECT_EQ(settings.CheckOutgoing(WithCpr("luo:vm1")).message(),
            "the 'cpr' channel is for cpr-transfer, and mode is cpr-luo");
}

TEST(MigrationSettingsTest, ExecCommandNamesTheStateAsMigrateDoes) {
  MigrationSettings settings;
  ASSERT_THAT(settings.SetMode("cpr-exec"), IsOk());
  settings.SetExecCommand({"cpr-vmm", "-incoming", "file:folder/../x", "-S"});
  EXPECT_THAT(settings.CheckOutgoing(Main("file:x")), IsOk());
  settings.SetExecCommand({"cpr-vmm", "-incoming", "defer"});
  EXPECT_EQ(settings.CheckOutgoing(Main("memfd:")).message(),
            "cpr-exec-command has -incoming defer, but the state goes to memfd:: give the same in both places");
}

TEST(MigrationSettingsTest, IncomingNeedsNoModeButTakesNoCprChannel) {
  EXPECT_THAT(MigrationSettings::CheckIncoming(Main("file:x")), IsOk());
  EXPECT_EQ(MigrationSettings::CheckIncoming(WithCpr("unix:s")).message(),
            "the 'cpr' channel can be given on the command line only, with -incoming");
  EXPECT_EQ(MigrationSettings::CheckIncoming(Main("tcp:0:0")).message(),
            "tcp:0:0: the port may not be 0, the peer could not know it");
}

}  // namespace
}  // namespace cpr
