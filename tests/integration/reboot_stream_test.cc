// cpr-reboot through commands, pipes and open files, without a hypervisor.

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/modes/ram_mark.h"
#include "libcpr/modes/reboot.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"
#include "libcpr/testing/toy_vm.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::cpr::testing::ToyVm;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<std::string> Shell(const std::string& text) { return {"/bin/sh", "-c", text}; }

std::pair<UniqueFd, UniqueFd> Pipe() {
  int fds[2];
  EXPECT_EQ(::pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

// What errors call this file's commands and streams.
constexpr char kName[] = "exec:it";

class RebootStreamTest : public ::testing::Test {
 protected:
  ~RebootStreamTest() override {
    outgoing_.reset();
    EXPECT_TRUE(::waitpid(-1, nullptr, WNOHANG) < 0 && errno == ECHILD) << "a command was left behind";
  }

  void Begin(ToyVm& vm, bool ignore_shared, std::vector<std::string> command, UniqueFd stream = UniqueFd()) {
    auto outgoing =
        CreateRebootOutgoing({kName, 0, ignore_shared, nullptr, std::move(command), std::move(stream)}, &vm);
    ASSERT_THAT(outgoing, IsOk());
    outgoing_ = *std::move(outgoing);
  }
  absl::Status Save(ToyVm& vm, bool ignore_shared, std::vector<std::string> command, UniqueFd stream = UniqueFd()) {
    Begin(vm, ignore_shared, std::move(command), std::move(stream));
    return outgoing_->Run();
  }
  absl::Status Resume(ToyVm& vm, bool ignore_shared, std::vector<std::string> command, UniqueFd stream = UniqueFd()) {
    auto incoming =
        CreateRebootIncoming({kName, 0, ignore_shared, nullptr, std::move(command), std::move(stream)}, &vm);
    if (!incoming.ok()) return incoming.status();
    return (*incoming)->Run();
  }
  absl::Status ResumeFile(ToyVm& vm, const std::string& path) {
    auto incoming = CreateRebootIncoming({path, 0, true, nullptr}, &vm);
    if (!incoming.ok()) return incoming.status();
    return (*incoming)->Run();
  }
  // A guest with its RAM in ram_, in `file_` by a command.
  void SaveNamed(ToyVm& vm, uint64_t value) {
    ASSERT_THAT(vm.Start("two vCPUs", value, ram_), IsOk());
    ASSERT_THAT(Save(vm, true, Shell(absl::StrCat("cat > ", file_))), IsOk());
  }
  absl::StatusOr<std::string> ReadFile() const {
    auto file = OpenFile(file_, O_RDONLY);
    if (!file.ok()) return file.status();
    return ReadToEnd(file->get(), 1 << 28);
  }

  const cpr::testing::TempFolder folder_;
  const std::string ram_ = folder_.File("ram");
  const std::string file_ = folder_.File("saved");
  const std::vector<std::string> cat_ = Shell(absl::StrCat("cat ", file_));
  std::unique_ptr<Outgoing> outgoing_;
};

TEST_F(RebootStreamTest, GuestComesBackThroughGzipWithItsRamInPlace) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 7, ram_), IsOk());
  ASSERT_THAT(Save(old, true, Shell(absl::StrCat("gzip -c > ", file_))), IsOk());
  EXPECT_FALSE(old.running);
  EXPECT_EQ(old.releases, 1);
  ASSERT_THAT(Resume(fresh, true, Shell(absl::StrCat("gzip -dc ", file_))), IsOk());
  EXPECT_TRUE(fresh.running);
  EXPECT_EQ(fresh.value, 7u);
  EXPECT_TRUE(fresh.RamIntact());
}

TEST_F(RebootStreamTest, PrivateRamGoesThroughTheStream) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 8, "private"), IsOk());
  ASSERT_THAT(Save(old, true, Shell(absl::StrCat("gzip -c > ", file_))), IsOk());
  ASSERT_THAT(Resume(fresh, true, {"gzip", "-dc", file_}), IsOk());
  EXPECT_EQ(fresh.value, 8u);
  EXPECT_TRUE(fresh.RamIntact());
}

TEST_F(RebootStreamTest, SharedRamGoesThroughTheStreamWithoutIgnoreShared) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 9, ram_), IsOk());
  ASSERT_THAT(Save(old, false, Shell(absl::StrCat("cat > ", file_))), IsOk());
  ASSERT_EQ(::truncate(ram_.c_str(), 0), 0);
  ASSERT_EQ(::truncate(ram_.c_str(), ToyVm::kRamBytes), 0);
  ASSERT_THAT(Resume(fresh, false, cat_), IsOk());
  EXPECT_TRUE(fresh.RamIntact());
}

TEST_F(RebootStreamTest, SavedStreamIsAStateFile) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 10, "private"), IsOk());
  ASSERT_THAT(Save(old, true, Shell(absl::StrCat("cat > ", file_))), IsOk());
  ASSERT_THAT(ResumeFile(fresh, file_), IsOk());
  EXPECT_TRUE(fresh.RamIntact());
}

// What says whether RAM has moved on lies beside it: a stream cannot be marked as used.

TEST_F(RebootStreamTest, SecondResumeIsRefusedAndSaysWhenTheFirstWas) {
  ToyVm old, first, second;
  SaveNamed(old, 11);
  ASSERT_THAT(Resume(first, true, cat_), IsOk());
  EXPECT_THAT(Resume(second, true, cat_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("resumed from this state already, at 20")));
  EXPECT_THAT(ResumeFile(second, file_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("resumed from this state already, at 20")));
  EXPECT_FALSE(second.running);
  EXPECT_THAT(outgoing_->Reclaim(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("resumed elsewhere")));
}

TEST_F(RebootStreamTest, StateOfAGuestThatWentOnIsRefused) {
  ToyVm old, fresh;
  SaveNamed(old, 12);
  ASSERT_THAT(outgoing_->Reclaim(), IsOk());
  EXPECT_THAT(Resume(fresh, true, cat_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("took its guest back")));
}

TEST_F(RebootStreamTest, StateBeforeTheLastOneIsRefused) {
  ToyVm old, next, fresh;
  SaveNamed(old, 13);
  const std::string earlier = folder_.File("earlier");
  ASSERT_EQ(::rename(file_.c_str(), earlier.c_str()), 0);
  ASSERT_THAT(Resume(next, true, {"cat", earlier}), IsOk());
  ASSERT_THAT(Save(next, true, Shell(absl::StrCat("cat > ", file_))), IsOk());
  EXPECT_THAT(Resume(fresh, true, {"cat", earlier}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("RAM has moved on")));
  EXPECT_THAT(Resume(fresh, true, cat_), IsOk());
}

TEST_F(RebootStreamTest, StateWithoutItsMarkIsRefused) {
  ToyVm old, fresh;
  SaveNamed(old, 14);
  ASSERT_EQ(::unlink(RamMarkPath(ram_).c_str()), 0);
  EXPECT_THAT(Resume(fresh, true, cat_),
              StatusIs(absl::StatusCode::kFailedPrecondition, AllOf(HasSubstr(kName), HasSubstr(RamMarkPath(ram_)))));
}

TEST_F(RebootStreamTest, CopyOfAStateFileIsRefused) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 15, ram_), IsOk());
  auto outgoing = CreateRebootOutgoing({file_, 0, true, nullptr}, &old);
  ASSERT_THAT(outgoing, IsOk());
  ASSERT_THAT((*outgoing)->Run(), IsOk());
  EXPECT_THAT(Resume(fresh, true, cat_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("resume it by file:")));
  EXPECT_THAT(ResumeFile(fresh, file_), IsOk());
}

TEST_F(RebootStreamTest, FileWithSparseRamIsReadThroughACommand) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 16, "private"), IsOk());
  auto outgoing = CreateRebootOutgoing({file_, 0, true, nullptr}, &old);
  ASSERT_THAT(outgoing, IsOk());
  ASSERT_THAT((*outgoing)->Run(), IsOk());
  ASSERT_THAT(Resume(fresh, true, cat_), IsOk());
  EXPECT_TRUE(fresh.RamIntact());
}

// Commands that fail.

class FailingCommand : public RebootStreamTest {
 protected:
  // `command` fails, the guest runs on, and what it left behind is no state.
  void ExpectFails(std::vector<std::string> command, const std::string& why, const std::string& ram) {
    SCOPED_TRACE(why);
    ToyVm old, fresh;
    ASSERT_THAT(old.Start("two vCPUs", 20, ram), IsOk());
    EXPECT_THAT(Message(Save(old, true, std::move(command))), AllOf(HasSubstr(kName), HasSubstr(why)));
    EXPECT_TRUE(old.running);
    EXPECT_EQ(old.resumes, old.pauses);
    EXPECT_EQ(old.releases, 0);
    if (ram != ram_) return;
    EXPECT_FALSE(Resume(fresh, true, cat_).ok());
  }
};

TEST_F(FailingCommand, ExitStatusAndWordsAreTheError) {
  const std::string keep = absl::StrCat("cat > ", file_, "; ");
  ExpectFails(Shell(keep + "echo no luck >&2; exit 3"), "exit status 3: no luck", ram_);
  ExpectFails(Shell(keep + "kill -9 $$"), "killed by signal 9", ram_);
  ExpectFails(Shell("exec cat > /no/such/folder/f"), "/no/such/folder/f", ram_);
}

TEST_F(FailingCommand, CommandThatDoesNotReadTheWholeState) {
  ExpectFails(Shell("true"), "before it had read the whole state", ram_);
  ExpectFails(Shell("head -c 100 > " + file_), "before it had read the whole state", "private");
  ExpectFails(Shell("true"), "before it had read the whole state", "private");
}

TEST_F(FailingCommand, CommandThatIsNotThere) {
  ExpectFails({"/no/such/command"}, "execvp /no/such/command failed", ram_);
}

TEST_F(RebootStreamTest, CommandThatNeverReadsCanBeCancelled) {
  ToyVm old;
  ASSERT_THAT(old.Start("two vCPUs", 21, "private"), IsOk());
  Begin(old, true, Shell("sleep 1000 & exec sleep 1000"));
  while (outgoing_->phase() < Phase::kSave) ASSERT_THAT(outgoing_->Advance(), IsOk());
  EXPECT_THAT(outgoing_->Cancel(), StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
  EXPECT_TRUE(old.running);
}

TEST_F(RebootStreamTest, CommandThatNeverEndsCanBeCancelledAndItsStateIsVoid) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 22, ram_), IsOk());
  Begin(old, true, Shell(absl::StrCat("cat > ", file_, "; exec sleep 1000")));
  while (outgoing_->phase() != Phase::kCommit) ASSERT_THAT(outgoing_->Advance(), IsOk());
  EXPECT_THAT(outgoing_->Cancel(), StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
  EXPECT_TRUE(old.running);
  EXPECT_FALSE(Resume(fresh, true, cat_).ok());
}

TEST_F(RebootStreamTest, CommandGetsStdioAndNothingElse) {
  const UniqueFd inheritable(::open("/dev/null", O_RDONLY));  // without CLOEXEC
  ToyVm old;
  ASSERT_THAT(old.Start("two vCPUs", 23, "private"), IsOk());
  // 3 is ls's own, of the folder that it lists. Signals are as a shell expects them.
  ASSERT_THAT(Save(old, true,
                   Shell(absl::StrCat("(ls /proc/self/fd; grep -E 'SigBlk|SigIgn' /proc/self/status) > ", file_,
                                      "; cat > /dev/null"))),
              IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const std::string said, ReadFile());
  EXPECT_THAT(said, ::testing::StartsWith("0\n1\n2\n3\nSigBlk:\t0000000000000000\nSigIgn:\t"));
  EXPECT_THAT(said, ::testing::EndsWith("0000000\n"));  // glibc ignores two of its own above
}

// Streams that are no states.

TEST_F(RebootStreamTest, EveryCutIsRefusedAndUsesNothingUp) {
  ToyVm old;
  SaveNamed(old, 30);
  CPR_ASSERT_OK_AND_ASSIGN(const std::string whole, ReadFile());
  for (size_t size = 0; size < whole.size(); size += 1 + size / 16) {
    auto [read, write] = Pipe();
    ASSERT_THAT(WriteAll(write.get(), whole.substr(0, size)), IsOk());
    write.Reset();
    ToyVm fresh;
    EXPECT_THAT(Resume(fresh, true, {}, std::move(read)), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(kName)))
        << size;
    EXPECT_FALSE(fresh.running);
  }
  ToyVm fresh;
  EXPECT_THAT(Resume(fresh, true, cat_), IsOk());
}

TEST_F(RebootStreamTest, RubbishIsCalledWhatItIs) {
  ToyVm old, fresh;
  SaveNamed(old, 31);
  const auto expect_refused = [&](const std::string& command, const std::string& why) {
    EXPECT_THAT(Message(Resume(fresh, true, Shell(command))), AllOf(HasSubstr(kName), HasSubstr(why)));
  };
  expect_refused("true", "not a cpr state: empty");
  expect_refused("cat /dev/zero", "not a cpr state");
  expect_refused("yes", "not a cpr state");
  expect_refused(absl::StrCat("cat ", file_, " /dev/zero"), "goes on behind the state");
  expect_refused(absl::StrCat("head -c 300 ", file_, "; cat /dev/zero"), "cut or altered");
  expect_refused(absl::StrCat("cat ", file_, "; echo checksum error >&2; exit 4"), "exit status 4: checksum error");
  expect_refused(absl::StrCat("head -c 200 ", file_, "; echo gone >&2; exit 5"), "exit status 5: gone");
  EXPECT_FALSE(fresh.running);
  EXPECT_THAT(Resume(fresh, true, cat_), IsOk()) << "what was refused is not used up";
}

TEST_F(RebootStreamTest, AlteredRamIsRefused) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 32, "private"), IsOk());
  ASSERT_THAT(Save(old, true, Shell(absl::StrCat("cat > ", file_))), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(std::string bytes, ReadFile());
  bytes[bytes.size() - 100] ^= 1;
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd file, OpenFile(file_, O_WRONLY));
  ASSERT_THAT(WriteAll(file.get(), bytes), IsOk());
  EXPECT_THAT(Resume(fresh, true, cat_), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("checksum")));
  EXPECT_FALSE(fresh.running);
}

// Descriptors.

TEST_F(RebootStreamTest, ThroughAPipe) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 40, ram_), IsOk());
  auto [read, write] = Pipe();
  ASSERT_THAT(Save(old, true, {}, std::move(write)), IsOk());
  ASSERT_THAT(Resume(fresh, true, {}, std::move(read)), IsOk());
  EXPECT_TRUE(fresh.RamIntact());
}

TEST_F(RebootStreamTest, PipeWithoutAReaderIsAnErrorAndNoSignal) {
  ToyVm old;
  ASSERT_THAT(old.Start("two vCPUs", 41, ram_), IsOk());
  auto [read, write] = Pipe();
  read.Reset();
  EXPECT_THAT(Save(old, true, {}, std::move(write)), StatusIs(absl::StatusCode::kAborted, HasSubstr("nobody read on")));
  EXPECT_TRUE(old.running);
  sigset_t pending;
  ::sigpending(&pending);
  EXPECT_FALSE(sigismember(&pending, SIGPIPE));
}

TEST_F(RebootStreamTest, ThroughAnOpenFileFromWhereItStands) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 42, "private"), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(UniqueFd file, OpenFile(file_, O_RDWR | O_CREAT));
  ASSERT_THAT(WriteAll(file.get(), "a header of somebody's"), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(UniqueFd copy, DupFd(file.get()));
  ASSERT_THAT(Save(old, true, {}, std::move(copy)), IsOk());
  ASSERT_EQ(::lseek(file.get(), 22, SEEK_SET), 22);
  ASSERT_THAT(Resume(fresh, true, {}, std::move(file)), IsOk());
  EXPECT_TRUE(fresh.RamIntact());
}

TEST_F(RebootStreamTest, RamOnADeviceIsRefused) {
  EXPECT_THAT(CreateRamMark("/dev/null", std::string(kMarkIdBytes, 'i')),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("use file:")));
}

}  // namespace
}  // namespace cpr
