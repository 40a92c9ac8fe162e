// cpr-luo through a session, without a hypervisor and with a kernel that is played.

#include "libcpr/modes/luo.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/preserve/fake_live_update.h"
#include "libcpr/preserve/live_update.h"
#include "libcpr/preserve/live_update_uapi.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"
#include "libcpr/testing/toy_vm.h"

namespace cpr {
namespace {

using ::cpr::testing::FakeLiveUpdate;
using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::cpr::testing::ToyVm;
using ::testing::_;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kName[] = "vm1";

// One that has another fd beside a toy's.
class ToyWithFd : public ToyVm {
 public:
  explicit ToyWithFd(FdKind kind, int fd) : kind_(kind), fd_(fd) {}
  absl::Status Describe(Mode mode, Inventory& inventory) override {
    CPR_RETURN_IF_ERROR(ToyVm::Describe(mode, inventory));
    return inventory.fds.AddDup("another", 3, kind_, fd_);
  }

 private:
  const FdKind kind_;
  const int fd_;
};

class LuoTest : public ::testing::Test {
 protected:
  LiveUpdate Device() { return LiveUpdate::Adopt(UniqueFd(), kernel_.Ioctl()); }

  absl::Status Begin(ToyVm& vm) {
    LuoOutgoingOptions options{.session = kName, .observer = nullptr};
    options.open = [this] { return Device(); };
    CPR_ASSIGN_OR_RETURN(outgoing_, CreateLuoOutgoing(std::move(options), &vm));
    return absl::OkStatus();
  }
  absl::Status Save(ToyVm& vm) {
    CPR_RETURN_IF_ERROR(Begin(vm));
    return outgoing_->Run();
  }
  // The host gets another kernel: of the old VMM nothing is left.
  void Kexec() {
    kernel_.Kexec();
    outgoing_.reset();
  }
  // A guest has been saved, and there is another kernel.
  void SaveAndKexec() {
    ToyVm old;
    ASSERT_THAT(old.Start("two vCPUs", 7), IsOk());
    ASSERT_THAT(Save(old), IsOk());
    Kexec();
  }

  static absl::Status Resume(LiveUpdateSession& session, ToyVm& vm) {
    LuoIncomingOptions options{[&session] { return &session; }, nullptr};
    CPR_ASSIGN_OR_RETURN(const std::unique_ptr<Incoming> incoming, CreateLuoIncoming(std::move(options), &vm));
    return incoming->Run();
  }

  FakeLiveUpdate kernel_;
  std::unique_ptr<Outgoing> outgoing_;
};

TEST_F(LuoTest, TheGuestRunsOnInTheNextKernel) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 7), IsOk());
  ASSERT_THAT(Save(old), IsOk());
  EXPECT_FALSE(old.running);
  EXPECT_EQ(old.releases, 1);
  Kexec();
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, Device().RetrieveSession(kName));
  ASSERT_THAT(Resume(session, fresh), IsOk());
  EXPECT_TRUE(fresh.running);
  EXPECT_EQ(fresh.config, "two vCPUs");
  EXPECT_EQ(fresh.value, 7u);
  EXPECT_TRUE(fresh.RamIntact());
  EXPECT_TRUE(fresh.extra.ok());
  // Finished: nothing is left in the session.
  EXPECT_THAT(session.RetrieveFd(kLuoStateToken), StatusIs(absl::StatusCode::kNotFound, _));
}

TEST_F(LuoTest, TheNextKernelMayBeReplacedToo) {
  SaveAndKexec();
  for (int i = 0; i < 3; ++i) {
    ToyVm vm;
    CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, Device().RetrieveSession(kName));
    ASSERT_THAT(Resume(session, vm), IsOk()) << i;
    ASSERT_THAT(Save(vm), IsOk()) << i;
    Kexec();
  }
}

TEST_F(LuoTest, RamIsPreservedWhileTheGuestRuns) {
  ToyVm vm;
  ASSERT_THAT(vm.Start("two vCPUs", 7), IsOk());
  // RAM, the fd beside it, and the state: the second of them all is the last one before the pause.
  kernel_.Refuse(kLiveUpdatePreserveFd, ENOMEM, /*after=*/1);
  EXPECT_EQ(StatusErrno(Save(vm)), ENOMEM);
  EXPECT_EQ(vm.pauses, 0);
  kernel_.Refuse(kLiveUpdatePreserveFd, ENOMEM, /*after=*/2);
  EXPECT_EQ(StatusErrno(Save(vm)), ENOMEM);
  EXPECT_EQ(vm.pauses, 1);
}

TEST_F(LuoTest, WhateverFailsTheGuestRunsOnAndNothingIsPreserved) {
  for (const char* call : {"describe", "pause", "save"}) {
    ToyVm vm;
    ASSERT_THAT(vm.Start("two vCPUs", 7), IsOk());
    vm.fault = [call](absl::string_view here) {
      return here == call ? absl::InternalError("as told") : absl::OkStatus();
    };
    EXPECT_THAT(Save(vm), StatusIs(absl::StatusCode::kInternal, HasSubstr("as told"))) << call;
    EXPECT_TRUE(vm.running) << call;
    EXPECT_EQ(vm.releases, 0) << call;
    EXPECT_FALSE(kernel_.Has(kName)) << call;
  }
  for (size_t after = 0; after < 3; ++after) {
    ToyVm vm;
    ASSERT_THAT(vm.Start("two vCPUs", 7), IsOk());
    kernel_.Refuse(kLiveUpdatePreserveFd, EIO, after);
    EXPECT_EQ(StatusErrno(Save(vm)), EIO) << after;
    EXPECT_TRUE(vm.running) << after;
    EXPECT_FALSE(kernel_.Has(kName)) << after;
  }
}

TEST_F(LuoTest, ItMayBeCancelledWhenRamIsPreserved) {
  ToyVm vm;
  ASSERT_THAT(vm.Start("two vCPUs", 7), IsOk());
  ASSERT_THAT(Begin(vm), IsOk());
  // One step for the check and one for each fd.
  for (int i = 0; i < 3; ++i) {
    CPR_ASSERT_OK_AND_ASSIGN(const bool done, outgoing_->Advance());
    EXPECT_FALSE(done);
  }
  EXPECT_TRUE(kernel_.Has(kName));
  EXPECT_THAT(outgoing_->Cancel(), StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_FALSE(kernel_.Has(kName));
  EXPECT_TRUE(vm.running);
  EXPECT_EQ(vm.pauses, 0);
}

TEST_F(LuoTest, AHostThatCannotIsSaidBeforeAnythingIsTouched) {
  for (const absl::Status& why : {LiveUpdate::Open("/dev/no-such-liveupdate").status(),
                                  absl::UnavailableError("/dev/liveupdate: another program has it open")}) {
    ToyVm vm;
    ASSERT_THAT(vm.Start("two vCPUs", 7), IsOk());
    LuoOutgoingOptions options{.session = kName, .observer = nullptr};
    options.open = [&why]() -> absl::StatusOr<LiveUpdate> { return why; };
    CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Outgoing> outgoing, CreateLuoOutgoing(std::move(options), &vm));
    EXPECT_EQ(outgoing->Run(), why);
    EXPECT_EQ(vm.pauses, 0);
  }
}

TEST_F(LuoTest, ASessionOfAnotherIsLeftAlone) {
  ToyVm vm;
  ASSERT_THAT(vm.Start("two vCPUs", 7), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const LiveUpdateSession others, Device().CreateSession(kName));
  EXPECT_THAT(Save(vm), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("'vm1'")));
  EXPECT_EQ(vm.pauses, 0);
  EXPECT_TRUE(kernel_.Has(kName));
}

TEST_F(LuoTest, RamThatIsNoSharedMemfdIsRefusedByName) {
  const cpr::testing::TempFolder folder;
  const std::pair<std::string, std::string> cases[] = {{"private", "share=on is required"},
                                                       {folder.File("ram"), "it is of kind file, and Live Update"}};
  for (const auto& [ram, why] : cases) {
    ToyVm vm;
    ASSERT_THAT(vm.Start("two vCPUs", 7, ram), IsOk());
    EXPECT_THAT(Save(vm), StatusIs(absl::StatusCode::kFailedPrecondition,
                                   AllOf(HasSubstr("Memory region toy.ram is not compatible with"), HasSubstr(why))));
    EXPECT_TRUE(vm.running);
    EXPECT_EQ(vm.pauses, 0);
  }
}

TEST_F(LuoTest, HugePagesAreRefusedByName) {
  RamBlockLayout layout{.name = "huge.ram", .size_bytes = 2 << 20, .page_size_bytes = 2 << 20};
  layout.backing = RamBacking::kAnonymous;
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock block, RamBlock::Create(layout, UniqueFd()));
  EXPECT_THAT(CheckLuoRam(block), StatusIs(absl::StatusCode::kFailedPrecondition,
                                           AllOf(HasSubstr("huge.ram"), HasSubstr("with huge pages"))));
}

TEST_F(LuoTest, AnFdThatIsNoMemfdIsRefusedByName) {
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  ToyWithFd vm(FdKind::kEventfd, event.get());
  ASSERT_THAT(vm.Start("two vCPUs", 7), IsOk());
  EXPECT_THAT(Save(vm), StatusIs(absl::StatusCode::kFailedPrecondition,
                                 HasSubstr("fd 'another' instance 3 is a eventfd, and Live Update keeps memfds only")));
  EXPECT_EQ(vm.pauses, 0);
}

TEST_F(LuoTest, TwoFdsOfOneFileGoAsOne) {
  const UniqueFd shared(::memfd_create("shared", MFD_CLOEXEC));
  ToyWithFd old(FdKind::kMemfd, shared.get());
  ASSERT_THAT(old.Start("two vCPUs", 7), IsOk());
  old.extra.Reset(::dup(shared.get()));
  ASSERT_THAT(Save(old), IsOk());
  Kexec();
  ToyVm fresh;
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, Device().RetrieveSession(kName));
  ASSERT_THAT(Resume(session, fresh), IsOk());
  EXPECT_TRUE(fresh.RamIntact());
}

TEST_F(LuoTest, AGuestThatWasTakenBackIsNotResumed) {
  ToyVm old, fresh;
  ASSERT_THAT(old.Start("two vCPUs", 7), IsOk());
  ASSERT_THAT(Save(old), IsOk());
  EXPECT_THAT(outgoing_->Reclaim(), IsOk());
  // The embedder ought to have dropped it.
  Kexec();
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, Device().RetrieveSession(kName));
  EXPECT_THAT(Resume(session, fresh), StatusIs(absl::StatusCode::kFailedPrecondition,
                                               HasSubstr("luo:vm1: the old VMM took its guest back, at 20")));
  EXPECT_EQ(fresh.runs, 0);
}

TEST_F(LuoTest, CalledOffTheGuestMayGoAgain) {
  ToyVm vm;
  ASSERT_THAT(vm.Start("two vCPUs", 7), IsOk());
  for (int i = 0; i < 3; ++i) {
    ASSERT_THAT(Save(vm), IsOk()) << i;
    EXPECT_THAT(outgoing_->Reclaim(), IsOk());
    outgoing_.reset();
    EXPECT_FALSE(kernel_.Has(kName));
  }
}

TEST_F(LuoTest, AfterAFailureAnotherTryIsMadeWithTheSameSession) {
  SaveAndKexec();
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, Device().RetrieveSession(kName));
  for (const char* call : {"build", "load", "apply"}) {
    ToyVm failing;
    failing.fault = [call](absl::string_view here) {
      return here == call ? absl::InternalError("as told") : absl::OkStatus();
    };
    EXPECT_THAT(Resume(session, failing), StatusIs(absl::StatusCode::kInternal, HasSubstr("luo:vm1: "))) << call;
    EXPECT_EQ(failing.runs, 0) << call;
  }
  ToyVm fresh;
  ASSERT_THAT(Resume(session, fresh), IsOk());
  EXPECT_TRUE(fresh.RamIntact());
}

TEST_F(LuoTest, ASessionThatCannotBeHadSaysWhy) {
  ToyVm fresh;
  LuoIncomingOptions options{
      [this]() -> absl::StatusOr<LiveUpdateSession*> { return Device().RetrieveSession("vm2").status(); }, nullptr};
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Incoming> incoming, CreateLuoIncoming(std::move(options), &fresh));
  EXPECT_THAT(incoming->Run(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("'vm2'")));
}

// A session that a stranger has filled, or a kernel that gives back something else.

TEST_F(LuoTest, ASessionWithoutAStateIsRefused) {
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession old, Device().CreateSession(kName));
  kernel_.Kexec();
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, Device().RetrieveSession(kName));
  ToyVm fresh;
  EXPECT_THAT(Resume(session, fresh), StatusIs(absl::StatusCode::kNotFound, HasSubstr("token 0")));
}

TEST_F(LuoTest, AStateThatIsNoneIsRefused) {
  const UniqueFd text(::memfd_create("text", MFD_CLOEXEC));
  ASSERT_THAT(PwriteAll(text.get(), std::string(200, 'x'), 0), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession old, Device().CreateSession(kName));
  ASSERT_THAT(old.PreserveFd(text.get(), kLuoStateToken), IsOk());
  kernel_.Kexec();
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, Device().RetrieveSession(kName));
  ToyVm fresh;
  EXPECT_THAT(Resume(session, fresh), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("luo:vm1: not a cpr state")));
}

// Every byte of the state counts, but for those of the ownership block, which no checksum covers.
TEST_F(LuoTest, AnAlteredStateIsRefusedWhereverItIs) {
  SaveAndKexec();
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, Device().RetrieveSession(kName));
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd state, session.RetrieveFd(kLuoStateToken));
  CPR_ASSERT_OK_AND_ASSIGN(const std::string whole, ReadToEnd(state.get(), 1 << 20));
  for (size_t at = 0; at < whole.size(); at += 7) {
    if (at >= 64 && at < 128) continue;
    const char altered = static_cast<char>(whole[at] ^ 0x10);
    ASSERT_THAT(PwriteAll(state.get(), absl::string_view(&altered, 1), at), IsOk());
    ToyVm fresh;
    EXPECT_FALSE(Resume(session, fresh).ok()) << at;
    EXPECT_EQ(fresh.runs, 0) << at;
    ASSERT_THAT(PwriteAll(state.get(), absl::string_view(&whole[at], 1), at), IsOk());
  }
  ToyVm fresh;
  EXPECT_THAT(Resume(session, fresh), IsOk());
}

// As the first kernels gave memfds back: without their seals.
TEST_F(LuoTest, RamThatOthersCouldCutIsRefused) {
  SaveAndKexec();
  CPR_ASSERT_OK_AND_ASSIGN(const LiveUpdateSession session, Device().RetrieveSession(kName));
  const UniqueFd loose(::memfd_create("loose", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(loose.get(), ToyVm::kRamBytes), 0);
  auto without_seals = [&](int, unsigned long request, void* argument) {  // NOLINT(google-runtime-int): ioctl's
    auto* retrieve = static_cast<LiveUpdateFd*>(argument);
    if (request == kLiveUpdateRetrieveFd && retrieve->token != kLuoStateToken) {
      retrieve->fd = ::dup(loose.get());
      return 0;
    }
    return kernel_.Ioctl()(session.fd(), request, argument);
  };
  LiveUpdateSession other = LiveUpdateSession::Adopt(UniqueFd(), kName, without_seals);
  ToyVm fresh;
  EXPECT_THAT(Resume(other, fresh), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("luo:vm1: ")));
  EXPECT_EQ(fresh.runs, 0);
}

}  // namespace
}  // namespace cpr
