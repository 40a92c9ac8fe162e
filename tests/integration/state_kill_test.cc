// A process that is killed while it saves a state over an older one, at 200 moments: the file is the one or the other,
// whole.

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/modes/reboot.h"
#include "libcpr/testing/child_process.h"
#include "libcpr/testing/helper.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"
#include "libcpr/testing/toy_vm.h"

namespace cpr {
namespace {

using ::cpr::testing::ChildProcess;
using ::cpr::testing::HelperCommand;
using ::cpr::testing::IsOk;
using ::cpr::testing::ToyVm;

constexpr uint64_t kOldValue = 7, kNewValue = 8;
constexpr int kMoments = 200;
constexpr char kBegins = 'b', kDone = 'd';

absl::Status Save(uint64_t value, const std::string& path) {
  ToyVm vm;
  CPR_RETURN_IF_ERROR(vm.Start("two vCPUs", value, "private"));
  CPR_ASSIGN_OR_RETURN(const std::unique_ptr<Outgoing> outgoing,
                       CreateRebootOutgoing({path, 0, /*ignore_shared=*/false, nullptr}, &vm));
  return outgoing->Run();
}

// args: the state's path, the fd to report on.
CPR_TEST_HELPER(SavesOver, (const std::vector<std::string>& args)) {
  const int report = std::atoi(args[1].c_str());
  if (!WriteAll(report, std::string(1, kBegins)).ok() || !Save(kNewValue, args[0]).ok()) return 1;
  return WriteAll(report, std::string(1, kDone)).ok() ? 0 : 2;
}

class StateKillTest : public ::testing::Test {
 protected:
  // A process that saves over the old state; until it says so.
  struct Saver {
    UniqueFd reports;
    std::unique_ptr<ChildProcess> process;
    bool Says(char what) const {
      char byte = 0;
      return ::read(reports.get(), &byte, 1) == 1 && byte == what;
    }
  };

  void SetUp() override {
    ASSERT_THAT(Save(kOldValue, state_), IsOk());
    CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd file, OpenFile(state_, O_RDONLY));
    CPR_ASSERT_OK_AND_ASSIGN(old_bytes_, ReadToEnd(file.get(), 1 << 24));
  }

  // With the old state in place, unused.
  absl::StatusOr<Saver> Start() {
    std::filesystem::remove(state_);
    CPR_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(state_, O_WRONLY | O_CREAT | O_EXCL, 0600));
    CPR_RETURN_IF_ERROR(WriteAll(file.get(), old_bytes_));
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return absl::InternalError("pipe2");
    const UniqueFd report(ends[1]);
    Saver saver{UniqueFd(ends[0]), nullptr};
    saver.process = std::make_unique<ChildProcess>(HelperCommand("SavesOver", {state_, std::to_string(ends[1])}),
                                                   std::vector<int>{ends[1]});
    return saver;
  }

  // What resuming the file brings.
  uint64_t ResumedValue() {
    ToyVm fresh;
    const auto incoming = CreateRebootIncoming({state_, 0, /*ignore_shared=*/false, nullptr}, &fresh);
    EXPECT_THAT(incoming.status(), IsOk());
    if (!incoming.ok()) return 0;
    EXPECT_THAT((*incoming)->Run(), IsOk());
    EXPECT_TRUE(fresh.RamIntact());
    return fresh.value;
  }

  const cpr::testing::TempFolder folder_;
  const std::string state_ = folder_.File("vm.state");
  std::string old_bytes_;
};

TEST_F(StateKillTest, TheOldStateOrTheNewOneIsWholeWheneverItsWriterIsKilled) {
  CPR_ASSERT_OK_AND_ASSIGN(const Saver whole, Start());
  ASSERT_TRUE(whole.Says(kBegins));
  const int64_t began_ns = MonotonicNs();
  ASSERT_TRUE(whole.Says(kDone));
  const int64_t takes_ns = MonotonicNs() - began_ns;
  ASSERT_EQ(whole.process->Wait(), 0);
  ASSERT_EQ(ResumedValue(), kNewValue);
  int old_states = 0;
  for (int moment = 0; moment < kMoments; ++moment) {
    SCOPED_TRACE(moment);
    CPR_ASSERT_OK_AND_ASSIGN(const Saver saver, Start());
    ASSERT_TRUE(saver.Says(kBegins));
    const int64_t until_ns = MonotonicNs() + takes_ns * moment / kMoments;
    while (MonotonicNs() < until_ns) {
    }
    saver.process->Kill();
    const uint64_t value = ResumedValue();
    ASSERT_TRUE(value == kOldValue || value == kNewValue) << value;
    old_states += value == kOldValue ? 1 : 0;
  }
  EXPECT_GT(old_states, 0) << "no moment was early enough to tell anything";
  RecordProperty("old_states", old_states);
}

}  // namespace
}  // namespace cpr
