// Runs the example with the lines that one would type, and looks at what it prints.

#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/subprocess.h"
#include "libcpr/testing/temp_folder.h"

namespace {

using ::cpr::testing::RunSubprocess;
using ::cpr::testing::SubprocessResult;
using ::cpr::testing::TempFolder;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kVersion1[] = "examples/kvm_upgrade/kvm_upgrade";
constexpr char kVersion2[] = "examples/kvm_upgrade/kvm_upgrade_v2";

struct Beat {
  int version;
  int pid;
  int number;
  bool after_pause;
};

std::vector<Beat> BeatsOf(const std::string& output) {
  static const std::regex beat(R"(version (\d+), pid (\d+): beat (\d+)(, paused for \d+\.\d ms)?)");
  std::vector<Beat> beats;
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (!std::regex_match(line, match, beat)) continue;
    beats.push_back({std::stoi(match[1]), std::stoi(match[2]), std::stoi(match[3]), match[4].matched});
  }
  return beats;
}

// The versions that one after the other had the guest.
std::vector<int> Programs(const std::vector<Beat>& beats) {
  std::vector<int> versions = {beats.at(0).version};
  for (const Beat& beat : beats) {
    if (beat.after_pause) versions.push_back(beat.version);
  }
  return versions;
}

void ExpectNoneLostNoneRepeated(const std::vector<Beat>& beats) {
  for (size_t i = 0; i < beats.size(); ++i) ASSERT_EQ(beats[i].number, static_cast<int>(i) + 1);
}

class KvmUpgradeTest : public ::testing::Test {
 protected:
  void SetUp() override { CPR_SKIP_WITHOUT_KVM(); }

  // Version 1, with `lines` on stdin.
  absl::StatusOr<SubprocessResult> Run(const std::vector<std::string>& lines) {
    std::ofstream input(folder_.File("stdin"));
    for (const std::string& line : lines) input << line << "\n";
    input.close();
    return RunSubprocess({"sh", "-c", "exec \"$0\" < \"$1\"", kVersion1, folder_.File("stdin")});
  }

  TempFolder folder_;
};

TEST_F(KvmUpgradeTest, TheGuestCountsOnThroughUpgradesInOneProcess) {
  CPR_ASSERT_OK_AND_ASSIGN(const SubprocessResult result, Run({kVersion2, "", kVersion1, "", kVersion2}));
  EXPECT_EQ(result.exit_code, 0) << result.output;
  const std::vector<Beat> beats = BeatsOf(result.output);
  ASSERT_FALSE(beats.empty()) << result.output;
  ExpectNoneLostNoneRepeated(beats);
  EXPECT_THAT(Programs(beats), ElementsAre(1, 2, 2, 1, 1, 2));
  for (const Beat& beat : beats) EXPECT_EQ(beat.pid, result.pid) << "beat " << beat.number;
}

TEST_F(KvmUpgradeTest, AFailedUpgradeLeavesTheGuestInTheOldProgram) {
  CPR_ASSERT_OK_AND_ASSIGN(const SubprocessResult result, Run({"/nonexistent/program", "true", kVersion2}));
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("no upgrade, the guest stays here: execvp /nonexistent/program failed"));
  EXPECT_THAT(result.output, HasSubstr("no upgrade, the guest stays here: true: asked whether it can take the guest"));
  const std::vector<Beat> beats = BeatsOf(result.output);
  ASSERT_FALSE(beats.empty()) << result.output;
  ExpectNoneLostNoneRepeated(beats);
  EXPECT_THAT(Programs(beats), ElementsAre(1, 2));
}

TEST_F(KvmUpgradeTest, AProgramThatCrashesAtItsStartGivesTheGuestBack) {
  // It answers as version 2 does when it is asked.
  const std::string crash = folder_.File("crash");
  std::ofstream(crash) << "[ -n \"$CPR_EXEC_CHECK\" ] || kill -SEGV $$\nexec " << kVersion2 << "\n";
  CPR_ASSERT_OK_AND_ASSIGN(const SubprocessResult result, Run({"sh " + crash, kVersion2}));
  EXPECT_EQ(result.exit_code, 128 + SIGSEGV) << result.output;
  EXPECT_THAT(result.output, HasSubstr("the guest is back: sh ended before the guest ran in it"));
  const std::vector<Beat> beats = BeatsOf(result.output);
  ASSERT_FALSE(beats.empty()) << result.output;
  ExpectNoneLostNoneRepeated(beats);
  EXPECT_THAT(Programs(beats), ElementsAre(1, 1, 2));
}

}  // namespace
