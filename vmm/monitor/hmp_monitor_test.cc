#include "vmm/monitor/hmp_monitor.h"

#include <string>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "vmm/monitor/fake_target.h"
#include "vmm/monitor/words.h"

namespace cpr {
namespace {

using ::cpr::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

class HmpMonitorTest : public ::testing::Test {
 protected:
  // What the monitor answers to `line`, without the prompt that must follow.
  std::string Ask(const std::string& line) {
    output_.clear();
    monitor_.Receive(line + "\n");
    EXPECT_TRUE(absl::EndsWith(output_, kHmpPrompt)) << "no prompt after: " << line << "\n" << output_;
    return output_.substr(0, output_.size() - std::string(kHmpPrompt).size());
  }
  void EndMigration(MigrationStatus status) {
    output_.clear();
    target_.info.status = status;
    monitor_.OnEvent({.kind = MonitorEvent::Kind::kMigration, .status = status});
  }

  FakeTarget target_;
  std::string output_;
  HmpMonitor monitor_{&target_, [this](absl::string_view bytes) { output_.append(bytes.data(), bytes.size()); }};
};

TEST_F(HmpMonitorTest, Greets) {
  monitor_.Start();
  EXPECT_EQ(output_, "cpr-vmm 0.1.0 monitor - type 'help' for more information\n(cpr-vmm) ");
}

TEST_F(HmpMonitorTest, ShowsEachRunState) {
  const struct {
    RunState state;
    std::string text;
  } kCases[] = {
      {RunState::kRunning, "VM status: running\n"},
      {RunState::kPaused, "VM status: paused\n"},
      {RunState::kSuspended, "VM status: paused (suspended)\n"},
      {RunState::kFinishMigrate, "VM status: paused (finish-migrate)\n"},
      {RunState::kPostmigrate, "VM status: paused (postmigrate)\n"},
      {RunState::kInmigrate, "VM status: paused (inmigrate)\n"},
      {RunState::kShutdown, "VM status: paused (shutdown)\n"},
  };
  for (const auto& c : kCases) {
    target_.state = c.state;
    EXPECT_EQ(Ask("info status"), c.text);
  }
}

TEST_F(HmpMonitorTest, ShowsMigration) {
  EXPECT_EQ(Ask("info migrate"), "Migration status: none\n");
  target_.info = {.status = MigrationStatus::kCompleted,
                  .total_time = absl::Milliseconds(12),
                  .setup_time = absl::Milliseconds(9),
                  .downtime = absl::Milliseconds(2),
                  .transferred_bytes = 4096,
                  .total_bytes = 1 << 20,
                  .in_place_bytes = (1 << 20) - 4096,
                  .phases_ns = {1000, 9000000, 3000, 4000, 5000, 600000}};
  EXPECT_EQ(Ask("info migrate"),
            "Migration status: completed\n"
            "total time: 12 ms\n"
            "downtime: 2 ms\n"
            "setup: 9 ms\n"
            "progress: 100 % of 4 kbytes to copy\n"
            "transferred ram: 4 kbytes\n"
            "remaining ram: 0 kbytes\n"
            "total ram: 1024 kbytes\n"
            "ram in place: 1020 kbytes\n"
            "phase check: 0.001 ms\n"
            "phase prepare: 9.000 ms\n"
            "phase stop: 0.003 ms\n"
            "phase save: 0.004 ms\n"
            "phase commit: 0.005 ms\n"
            "phase resume: 0.600 ms\n");
  target_.info = {.status = MigrationStatus::kDevice, .transferred_bytes = 3ull << 30, .remaining_bytes = 5ull << 30};
  EXPECT_THAT(Ask("info migrate"), HasSubstr("\nprogress: 37 % of 8388608 kbytes to copy\n"));
  target_.info = {.status = MigrationStatus::kCompleted, .in_place_bytes = 1 << 20};
  EXPECT_THAT(Ask("info migrate"), Not(HasSubstr("progress")));
  target_.info = {.status = MigrationStatus::kFailed, .error_desc = "disk full"};
  EXPECT_THAT(Ask("info migrate"), StartsWith("Migration status: failed (disk full)\n"));
  const struct {
    MigrationStatus status;
    std::string text;
  } kCases[] = {
      {MigrationStatus::kSetup, "setup"},         {MigrationStatus::kActive, "active"},
      {MigrationStatus::kDevice, "device"},       {MigrationStatus::kCancelling, "cancelling"},
      {MigrationStatus::kCancelled, "cancelled"},
  };
  for (const auto& c : kCases) {
    target_.info.status = c.status;
    EXPECT_THAT(Ask("info migrate"), StartsWith("Migration status: " + c.text + "\n"));
  }
}

TEST_F(HmpMonitorTest, SetsAndShowsParameters) {
  EXPECT_EQ(Ask("info migrate_parameters"), "mode: normal\ncpr-exec-command:\n");
  EXPECT_EQ(Ask("migrate_set_parameter mode cpr-exec"), "");
  EXPECT_EQ(Ask("migrate_set_parameter cpr-exec-args numactl 'a b' cpr-vmm -incoming \"file:x y\""), "");
  EXPECT_THAT(target_.settings.exec_command(), ElementsAre("numactl", "a b", "cpr-vmm", "-incoming", "file:x y"));
  EXPECT_EQ(Ask("migrate_set_parameter cpr-exec-command cpr-vmm -incoming memfd:"), "");
  EXPECT_EQ(Ask("info migrate_parameters"), "mode: cpr-exec\ncpr-exec-command: cpr-vmm -incoming memfd:\n");
  EXPECT_EQ(Ask("migrate_set_parameter mode live"), "Error: Parameter 'mode' does not accept value 'live'\n");
  EXPECT_EQ(Ask("migrate_set_parameter max-bandwidth 1"), "Error: invalid parameter value: max-bandwidth\n");
  EXPECT_EQ(Ask("migrate_set_parameter mode cpr-exec now"),
            "migrate_set_parameter: extraneous characters at the end of line\n");
}

TEST_F(HmpMonitorTest, SetsAndShowsCapabilities) {
  EXPECT_EQ(Ask("info migrate_capabilities"), "events: on\nx-ignore-shared: off\nx-mapped-restore: off\n");
  EXPECT_EQ(Ask("migrate_set_capability x-ignore-shared on"), "");
  EXPECT_EQ(Ask("info migrate_capabilities"), "events: on\nx-ignore-shared: on\nx-mapped-restore: off\n");
  EXPECT_EQ(Ask("migrate_set_capability x-ignore-shared yes"), "Expected 'on' or 'off'\n");
  EXPECT_EQ(Ask("migrate_set_capability postcopy-ram on"), "Error: Cannot use postcopy with CPR\n");
}

TEST_F(HmpMonitorTest, ShowsVersionAndReadiness) {
  EXPECT_EQ(Ask("info version"), "0.1.0 (cpr-vmm, speaks QEMU 11.1.0)\n");
  EXPECT_EQ(Ask("info cpr"), "cpr-reboot: ready\ncpr-transfer: blocked\n  RAM is private\n  disk\ncpr-exec: ready\n");
}

TEST_F(HmpMonitorTest, PassesCommandsOn) {
  for (const std::string command : {"stop", "cont", "system_reset", "system_powerdown", "system_wakeup"}) {
    EXPECT_EQ(Ask(command), "");
    EXPECT_EQ(target_.calls.back(), command);
  }
  EXPECT_EQ(Ask("migrate_cancel"), "");
  EXPECT_EQ(target_.calls.back(), "cancel");
  EXPECT_EQ(Ask("c"), "");
  EXPECT_EQ(target_.calls.back(), "cont");
  target_.answer = absl::FailedPreconditionError("Unable to wake up: guest is not in suspended state");
  EXPECT_EQ(Ask("system_wakeup"), "Error: Unable to wake up: guest is not in suspended state\n");
}

TEST_F(HmpMonitorTest, QuitEndsTheConversation) {
  monitor_.Receive("quit\ninfo status\n");
  EXPECT_THAT(target_.calls, ElementsAre("quit"));
  EXPECT_EQ(output_, "") << "neither a prompt nor an answer after quit";
}

TEST_F(HmpMonitorTest, DetachedMigrateReturnsAtOnce) {
  ASSERT_EQ(Ask("migrate_set_parameter mode cpr-reboot"), "");
  target_.info.status = MigrationStatus::kSetup;
  EXPECT_EQ(Ask("migrate -d file:vm.state"), "");
  EXPECT_THAT(target_.calls, ElementsAre("migrate file:vm.state"));
}

TEST_F(HmpMonitorTest, MigrateWaitsForTheEndAndHoldsBackWhatIsTyped) {
  ASSERT_EQ(Ask("migrate_set_parameter mode cpr-reboot"), "");
  target_.info.status = MigrationStatus::kActive;
  output_.clear();
  monitor_.Receive("migrate file:vm.state\ninfo status\n");
  EXPECT_EQ(output_, "") << "no prompt yet, and the next line waits";
  monitor_.OnEvent({.kind = MonitorEvent::Kind::kStop});
  monitor_.OnEvent({.kind = MonitorEvent::Kind::kMigration, .status = MigrationStatus::kDevice});
  EXPECT_EQ(output_, "");
  target_.state = RunState::kPostmigrate;
  EndMigration(MigrationStatus::kCompleted);
  EXPECT_EQ(output_, "(cpr-vmm) VM status: paused (postmigrate)\n(cpr-vmm) ");
}

TEST_F(HmpMonitorTest, MigrateSaysWhyItFailed) {
  ASSERT_EQ(Ask("migrate_set_parameter mode cpr-reboot"), "");
  target_.info.status = MigrationStatus::kActive;
  monitor_.Receive("migrate file:vm.state\n");
  target_.info.error_desc = "No space left on device";
  EndMigration(MigrationStatus::kFailed);
  EXPECT_EQ(output_, "Error: No space left on device\n(cpr-vmm) ");
  // It may also have ended before the command returns.
  EXPECT_EQ(Ask("migrate file:vm.state"), "Error: No space left on device\n");
}

TEST_F(HmpMonitorTest, RefusalsAreErrors) {
  EXPECT_THAT(Ask("migrate -d file:x"), StartsWith("Error: mode normal is live migration"));
  EXPECT_EQ(Ask("migrate -d nowhere"), "Error: unknown migration protocol: nowhere\n");
  ASSERT_EQ(Ask("migrate_set_parameter mode cpr-transfer"), "");
  EXPECT_EQ(Ask("migrate -d unix:x"), "Error: missing 'cpr' migration channel\n");
  ASSERT_EQ(Ask("migrate_set_parameter mode cpr-reboot"), "");
  EXPECT_THAT(target_.calls, IsEmpty());
  target_.answer = absl::FailedPreconditionError("There's a migration process in progress");
  EXPECT_EQ(Ask("migrate -d file:x"), "Error: There's a migration process in progress\n");
}

TEST_F(HmpMonitorTest, IncomingWaitsForFilesButNotForPeers) {
  target_.info.status = MigrationStatus::kSetup;
  EXPECT_EQ(Ask("migrate_incoming tcp:0:44444"), "");
  output_.clear();
  monitor_.Receive("migrate_incoming file:vm.state\n");
  EXPECT_EQ(output_, "");
  EndMigration(MigrationStatus::kCompleted);
  EXPECT_EQ(output_, "(cpr-vmm) ");
  EXPECT_THAT(target_.calls, ElementsAre("incoming tcp:0:44444", "incoming file:vm.state"));
}

TEST_F(HmpMonitorTest, IncomingWaitsForSessions) {
  target_.info.status = MigrationStatus::kSetup;
  monitor_.Receive("migrate_incoming luo:vm1\n");
  EXPECT_EQ(output_, "");
  EndMigration(MigrationStatus::kCompleted);
  EXPECT_EQ(output_, "(cpr-vmm) ");
  EXPECT_THAT(target_.calls, ElementsAre("incoming luo:vm1"));
}

TEST_F(HmpMonitorTest, ComplainsInQemusWords) {
  const struct {
    std::string line;
    std::string text;
  } kCases[] = {
      {"", ""},
      {"  ", ""},
      {"frobnicate now", "unknown command: 'frobnicate'\n"},
      {"info", HmpInfoHelp()},
      {"info registers", "unknown command: 'info registers'\n"},
      {"migrate", "migrate: string expected\nTry \"help migrate\" for more information\n"},
      {"migrate -x file:x", "migrate: unsupported option -x\nTry \"help migrate\" for more information\n"},
      {"stop now", "stop: extraneous characters at the end of line\nTry \"help stop\" for more information\n"},
      {"migrate 'file:x", "migrate: unmatched '\nTry \"help migrate\" for more information\n"},
      {"help stop", "stop|s -- stop emulation\n"},
      {"help nonsense", "unknown command: 'nonsense'\n"},
  };
  for (const auto& c : kCases) EXPECT_EQ(Ask(c.line), c.text) << c.line;
  EXPECT_THAT(Ask("help"), HasSubstr("migrate [-d] uri -- migrate to URI"));
}

TEST_F(HmpMonitorTest, TakesLinesInPiecesAndWithCarriageReturns) {
  monitor_.Receive("info st");
  EXPECT_EQ(output_, "");
  monitor_.Receive("atus\r\ninfo sta");
  EXPECT_EQ(output_, "VM status: running\n(cpr-vmm) ");
  monitor_.Receive(std::string(100000, 'x'));
  EXPECT_THAT(output_, HasSubstr("command line too long\n"));
}

TEST(SplitWordsTest, FollowsTheShell) {
  const auto split = [](const std::string& line) { return SplitWords(line).value(); };
  EXPECT_THAT(split("  a  b\tc "), ElementsAre("a", "b", "c"));
  EXPECT_THAT(split(R"(a' b'"c d" '' e\ f)"), ElementsAre("a bc d", "", "e f"));
  EXPECT_THAT(split(R"("a\"b\n" 'c\' \\)"), ElementsAre(R"(a"b\n)", R"(c\)", R"(\)"));
  EXPECT_THAT(split(""), IsEmpty());
  EXPECT_THAT(SplitWords("a \"b"), StatusIs(absl::StatusCode::kInvalidArgument, "unmatched \""));
}

}  // namespace
}  // namespace cpr
