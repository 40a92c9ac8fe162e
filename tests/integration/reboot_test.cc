// cpr-reboot through a file, without a hypervisor.

#include "libcpr/modes/reboot.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"
#include "libcpr/testing/toy_vm.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::cpr::testing::ToyVm;
using ::testing::HasSubstr;

class RebootTest : public ::testing::Test {
 protected:
  absl::Status Save(ToyVm& vm, bool ignore_shared, uint64_t offset_bytes = 0) {
    auto outgoing = CreateRebootOutgoing({state_, offset_bytes, ignore_shared, nullptr}, &vm);
    if (!outgoing.ok()) return outgoing.status();
    outgoing_ = *std::move(outgoing);
    return outgoing_->Run();
  }

  absl::Status Resume(ToyVm& vm, bool ignore_shared, uint64_t offset_bytes = 0) {
    auto incoming = CreateRebootIncoming({state_, offset_bytes, ignore_shared, nullptr}, &vm);
    if (!incoming.ok()) return incoming.status();
    incoming_ = *std::move(incoming);
    return incoming_->Run();
  }

  size_t FilesInFolder() const {
    return static_cast<size_t>(
        std::distance(std::filesystem::directory_iterator(folder_.path()), std::filesystem::directory_iterator()));
  }

  std::string ReadState() const {
    auto fd = OpenFile(state_, O_RDONLY);
    return *ReadToEnd(fd->get(), 1 << 28);
  }
  void WriteState(const std::string& bytes) const {
    auto fd = OpenFile(state_, O_WRONLY | O_CREAT | O_TRUNC);
    ASSERT_THAT(WriteAll(fd->get(), bytes), IsOk());
  }

  const cpr::testing::TempFolder folder_;
  const std::string ram_ = folder_.File("ram");
  std::string state_ = folder_.File("vm.state");
  std::unique_ptr<Outgoing> outgoing_;
  std::unique_ptr<Incoming> incoming_;
};

TEST_F(RebootTest, GuestComesBackWithItsRamInPlace) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 7, ram_), IsOk());
  ASSERT_THAT(Save(old, true), IsOk());
  EXPECT_FALSE(old.running);
  EXPECT_LT(std::filesystem::file_size(state_), 4096u) << "RAM was copied";
  struct stat info;
  ASSERT_EQ(::stat(state_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_THAT(Resume(fresh, true), IsOk());
  EXPECT_TRUE(fresh.running);
  EXPECT_EQ(fresh.value, 7u);
  EXPECT_TRUE(fresh.RamIntact());
}

TEST_F(RebootTest, PhasesOfTheNewSideAddUpToThePause) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 7, ram_), IsOk());
  ASSERT_THAT(Save(old, true), IsOk());
  const int64_t saved_ns = MonotonicNs();
  while (MonotonicNs() - saved_ns < 5'000'000) {  // nobody has the guest
  }
  const int64_t resume_began_ns = MonotonicNs();
  ASSERT_THAT(Resume(fresh, true), IsOk());
  const std::array<int64_t, kPhaseCount>& times_ns = incoming_->phase_times_ns();
  const auto time_ns = [&](Phase phase) { return times_ns[static_cast<size_t>(phase)]; };
  EXPECT_EQ(time_ns(Phase::kStop) + time_ns(Phase::kSave) + time_ns(Phase::kCommit) + time_ns(Phase::kResume),
            incoming_->pause_ns());
  EXPECT_GT(time_ns(Phase::kSave), 0);
  EXPECT_GE(time_ns(Phase::kCommit), resume_began_ns - saved_ns) << "the time between the two sides is lost";
}

TEST_F(RebootTest, PrivateRamIsCopied) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 8, "private"), IsOk());
  ASSERT_THAT(Save(old, true), IsOk());
  ASSERT_THAT(Resume(fresh, true), IsOk());
  EXPECT_EQ(fresh.value, 8u);
  EXPECT_TRUE(fresh.RamIntact());
}

TEST_F(RebootTest, SharedRamIsCopiedWithoutIgnoreShared) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 9, ram_), IsOk());
  ASSERT_THAT(Save(old, false), IsOk());
  ASSERT_EQ(::truncate(ram_.c_str(), 0), 0);
  ASSERT_EQ(::truncate(ram_.c_str(), ToyVm::kRamBytes), 0);
  ASSERT_THAT(Resume(fresh, false), IsOk());
  EXPECT_TRUE(fresh.RamIntact());
}

TEST_F(RebootTest, StateAtAnOffsetLeavesWhatLiesBefore) {
  WriteState(std::string(4096, 'h'));
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 10, ram_), IsOk());
  ASSERT_THAT(Save(old, true, 4096), IsOk());
  EXPECT_EQ(ReadState().substr(0, 4096), std::string(4096, 'h'));
  ASSERT_THAT(Resume(fresh, true, 4096), IsOk());
  EXPECT_EQ(fresh.value, 10u);
}

TEST_F(RebootTest, SecondResumeIsRefusedAndSaysWhenTheFirstWas) {
  ToyVm old, first, second;
  ASSERT_THAT(old.Start("two vCPUs", 11, ram_), IsOk());
  ASSERT_THAT(Save(old, true), IsOk());
  ASSERT_THAT(Resume(first, true), IsOk());
  EXPECT_THAT(Resume(second, true),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("resumed from this state already, at 20")));
  EXPECT_FALSE(second.running);
  EXPECT_THAT(outgoing_->Reclaim(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("resumed elsewhere")));
}

TEST_F(RebootTest, StateOfAGuestThatWentOnIsRefused) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 12, ram_), IsOk());
  ASSERT_THAT(Save(old, true), IsOk());
  ASSERT_THAT(outgoing_->Reclaim(), IsOk());
  EXPECT_THAT(Resume(fresh, true), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("took its guest back")));
}

TEST_F(RebootTest, EveryCutOfTheStateIsRefusedAndRunsNothing) {
  ToyVm old;
  ASSERT_THAT(old.Start("two vCPUs", 13, ram_), IsOk());
  ASSERT_THAT(Save(old, true), IsOk());
  const std::string whole = ReadState();
  for (size_t size = 0; size < whole.size(); ++size) {
    WriteState(whole.substr(0, size));
    ToyVm fresh;
    ASSERT_FALSE(Resume(fresh, true).ok()) << "a state cut to " << size << " bytes was taken";
    ASSERT_FALSE(fresh.running);
  }
  WriteState(whole);
  ToyVm fresh;
  EXPECT_THAT(Resume(fresh, true), IsOk());
}

TEST_F(RebootTest, ForeignFileIsCalledWhatItIs) {
  WriteState("QEVM" + std::string(200, 'x'));
  ToyVm fresh;
  EXPECT_THAT(Resume(fresh, true), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(state_)));
}

TEST_F(RebootTest, AnotherRamFileIsRefusedByName) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 14, ram_), IsOk());
  ASSERT_THAT(Save(old, true), IsOk());
  std::filesystem::rename(ram_, ram_ + ".away");
  EXPECT_THAT(Resume(fresh, true), StatusIs(absl::StatusCode::kNotFound, HasSubstr(ram_)));
  ToyVm other;
  ASSERT_THAT(other.Start("x", 1, ram_), IsOk());
  EXPECT_THAT(Resume(fresh, true), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(ram_)));
  std::filesystem::rename(ram_ + ".away", ram_);
  EXPECT_THAT(Resume(fresh, true), IsOk()) << "a refused resume must not use the state up";
}

TEST_F(RebootTest, FailureAtAnyCallLeavesTheGuestRunningAndNoFile) {
  for (const std::string call : {"describe", "pause", "save"}) {
    SCOPED_TRACE(call);
    ToyVm old;
    ASSERT_THAT(old.Start("two vCPUs", 15), IsOk());
    old.fault = [&call](absl::string_view now) {
      return now == call ? absl::InternalError("no luck") : absl::OkStatus();
    };
    EXPECT_THAT(Save(old, true), StatusIs(absl::StatusCode::kInternal, HasSubstr("no luck")));
    outgoing_.reset();
    EXPECT_TRUE(old.running);
    EXPECT_EQ(old.resumes, old.pauses);
    EXPECT_EQ(FilesInFolder(), 0u);
  }
}

TEST_F(RebootTest, FailedSaveKeepsTheStateBefore) {
  WriteState("an older state");
  ToyVm old;
  ASSERT_THAT(old.Start("two vCPUs", 16), IsOk());
  old.fault = [](absl::string_view now) { return now == "save" ? absl::InternalError("no luck") : absl::OkStatus(); };
  EXPECT_FALSE(Save(old, true).ok());
  EXPECT_EQ(ReadState(), "an older state");
  old.fault = nullptr;
  EXPECT_THAT(Save(old, true), IsOk());
  EXPECT_EQ(FilesInFolder(), 1u) << "a temporary file was left behind";
}

TEST_F(RebootTest, CancelledWhileRamIsCopiedTheGuestRunsOnAndNoFileRemains) {
  ToyVm old;
  ASSERT_THAT(old.Start("two vCPUs", 18, "private"), IsOk());
  auto outgoing = CreateRebootOutgoing({state_, 0, true, nullptr}, &old);
  ASSERT_THAT(outgoing, IsOk());
  // The copying has begun; that it has ended is seen by the next Advance at the earliest.
  CPR_ASSERT_OK_AND_ASSIGN(const bool done, (*outgoing)->Advance());
  EXPECT_FALSE(done);
  EXPECT_EQ((*outgoing)->phase(), Phase::kSave);
  EXPECT_FALSE(old.running);
  EXPECT_THAT((*outgoing)->Cancel(), StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
  EXPECT_TRUE(old.running);
  EXPECT_TRUE(old.RamIntact());
  EXPECT_EQ(FilesInFolder(), 0u);
}

TEST_F(RebootTest, OutgoingCanBeDestroyedWhileRamIsCopied) {
  ToyVm old;
  ASSERT_THAT(old.Start("two vCPUs", 19, "private"), IsOk());
  auto outgoing = CreateRebootOutgoing({state_, 0, true, nullptr}, &old);
  ASSERT_THAT(outgoing, IsOk());
  EXPECT_FALSE(*(*outgoing)->Advance());
  outgoing->reset();
  EXPECT_EQ(FilesInFolder(), 0u);
}

TEST_F(RebootTest, RamProgressIsToldOnBothSides) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 20, "private"), IsOk());
  ASSERT_THAT(Save(old, true), IsOk());
  EXPECT_EQ(outgoing_->ram_progress().copied_bytes, ToyVm::kRamBytes);
  auto incoming = CreateRebootIncoming({state_, 0, true, nullptr}, &fresh);
  ASSERT_THAT(incoming, IsOk());
  EXPECT_FALSE(*(*incoming)->Advance());
  EXPECT_EQ((*incoming)->phase(), Phase::kSave);
  EXPECT_EQ((*incoming)->ram_progress().copy_bytes, ToyVm::kRamBytes);
  EXPECT_FALSE(fresh.running);
  ASSERT_THAT((*incoming)->Run(), IsOk());
  EXPECT_EQ((*incoming)->ram_progress().copied_bytes, ToyVm::kRamBytes);
  EXPECT_TRUE(fresh.running);
  EXPECT_TRUE(fresh.RamIntact());
}

TEST_F(RebootTest, IncomingThatIsCalledOffWhileRamIsCopiedLeavesTheStateUsable) {
  ToyVm old, dropped, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 21, ram_), IsOk());
  ASSERT_THAT(Save(old, false), IsOk());
  auto incoming = CreateRebootIncoming({state_, 0, false, nullptr}, &dropped);
  ASSERT_THAT(incoming, IsOk());
  EXPECT_FALSE(*(*incoming)->Advance());
  incoming->reset();
  EXPECT_FALSE(dropped.running);
  ASSERT_THAT(Resume(fresh, false), IsOk());
  EXPECT_TRUE(fresh.RamIntact());
}

TEST_F(RebootTest, EveryWayOfCopyingMakesTheSameGuest) {
  for (const unsigned threads : {1u, 3u}) {
    for (const bool direct : {false, true}) {
      SCOPED_TRACE(absl::StrCat(threads, " threads, direct ", direct));
      ToyVm old, fresh;
      ASSERT_THAT(old.Start("two vCPUs", 22, "private"), IsOk());
      const RamCopyOptions copy = {.threads = threads, .direct = direct};
      auto outgoing = CreateRebootOutgoing({.path = state_, .copy = copy}, &old);
      ASSERT_THAT(outgoing, IsOk());
      ASSERT_THAT((*outgoing)->Run(), IsOk());
      auto incoming = CreateRebootIncoming({.path = state_, .copy = copy}, &fresh);
      ASSERT_THAT(incoming, IsOk());
      ASSERT_THAT((*incoming)->Run(), IsOk());
      EXPECT_TRUE(fresh.RamIntact());
    }
  }
}

TEST_F(RebootTest, DiskFullWhileRamIsCopiedLeavesTheGuestRunning) {
  state_ = "/dev/full";
  ToyVm old;
  ASSERT_THAT(old.Start("two vCPUs", 23, "private"), IsOk());
  EXPECT_THAT(Save(old, true, 4096), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("RAM block 'toy.ram'")));
  EXPECT_TRUE(old.running);
  EXPECT_EQ(old.resumes, old.pauses);
}

TEST_F(RebootTest, RamThatWasAlteredInTheFileIsRefusedAndRunsNothing) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 24, "private"), IsOk());
  ASSERT_THAT(Save(old, true), IsOk());
  std::string bytes = ReadState();
  bytes[2 << 20] ^= 1;  // where the first block's area begins
  WriteState(bytes);
  EXPECT_THAT(Resume(fresh, true), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("does not fit its checksum")));
  EXPECT_FALSE(fresh.running);
}

TEST_F(RebootTest, PrivateRamCanBeMappedFromTheState) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 25, "private"), IsOk());
  ASSERT_THAT(Save(old, true), IsOk());
  const std::string before = ReadState();
  auto incoming = CreateRebootIncoming({.path = state_, .map_private = true}, &fresh);
  ASSERT_THAT(incoming, IsOk());
  ASSERT_THAT((*incoming)->Run(), IsOk());
  EXPECT_EQ((*incoming)->ram_progress().copy_bytes, 0u);
  EXPECT_TRUE(fresh.running);
  EXPECT_TRUE(fresh.RamIntact());
  // What the guest writes is its own, and its state can be saved over the one that it lives on.
  fresh.Refill(26);
  constexpr size_t kArea = 2 << 20;  // the ownership word before it has changed, and a hole follows
  EXPECT_TRUE(ReadState().substr(kArea, before.size() - kArea) == before.substr(kArea))
      << "the guest has written into its state";
  ToyVm later;
  ASSERT_THAT(Save(fresh, true), IsOk());
  ASSERT_THAT(Resume(later, true), IsOk());
  EXPECT_TRUE(later.RamIntact());
}

TEST_F(RebootTest, RamCannotBeMappedFromAPartOfAFile) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 27, "private"), IsOk());
  ASSERT_THAT(Save(old, true, 4096), IsOk());
  auto incoming = CreateRebootIncoming({.path = state_, .offset_bytes = 4096, .map_private = true}, &fresh);
  ASSERT_THAT(incoming, IsOk());
  EXPECT_THAT((*incoming)->Run(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at offset 0")));
  EXPECT_FALSE(fresh.running);
  EXPECT_THAT(Resume(fresh, true, 4096), IsOk());
}

TEST_F(RebootTest, FolderThatDoesNotExistIsNamed) {
  state_ = folder_.File("nowhere/vm.state");
  ToyVm old;
  ASSERT_THAT(old.Start("two vCPUs", 17), IsOk());
  EXPECT_THAT(Save(old, true), StatusIs(absl::StatusCode::kNotFound, HasSubstr("nowhere")));
  EXPECT_TRUE(old.running);
  EXPECT_EQ(old.pauses, 0);
}

}  // namespace
}  // namespace cpr
