// cpr-transfer between two sides in one process, a thread each, without a hypervisor.

#include "libcpr/modes/transfer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/modes/handover_channel.h"
#include "libcpr/preserve/stream_socket.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"
#include "libcpr/testing/toy_vm.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::cpr::testing::ToyVm;
using ::testing::HasSubstr;

class TransferTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_THAT(old_.Start("two vCPUs", 42), IsOk());
    ListenAgain();
  }

  // A new side that waits.
  void ListenAgain() {
    incoming_.reset();
    CPR_ASSERT_OK_AND_ASSIGN(PacketSocket listener, PacketSocket::Listen(path_));
    TransferIncomingOptions options{std::move(listener), [this](const absl::Status& why) { refused_.push_back(why); },
                                    handshake_timeout_, nullptr};
    CPR_ASSERT_OK_AND_ASSIGN(incoming_, CreateTransferIncoming(std::move(options), &new_));
  }

  absl::StatusOr<std::unique_ptr<Outgoing>> MakeOutgoing(bool main_channel, PhaseObserver observer = nullptr) {
    absl::StatusOr<PacketSocket> socket = PacketSocket::Connect(path_);
    if (!socket.ok()) return socket.status();
    TransferOutgoingOptions options{*std::move(socket), nullptr, {}, std::move(observer)};
    if (main_channel) options.connect_main = [this] { return ConnectUnixStream(main_path_); };
    options.timeouts.restore = absl::Seconds(5);
    return CreateTransferOutgoing(std::move(options), &old_);
  }

  // Runs both sides to their ends.
  void Handover(bool main_channel, PhaseObserver observer = nullptr) {
    auto outgoing = MakeOutgoing(main_channel, std::move(observer));
    ASSERT_THAT(outgoing.status(), IsOk());
    std::thread other([this] { new_status_ = incoming_->Run(); });
    old_status_ = (*outgoing)->Run();
    outgoing->reset();
    other.join();
  }

  void ExpectNewRuns() {
    EXPECT_THAT(old_status_, IsOk());
    EXPECT_THAT(new_status_, IsOk());
    EXPECT_FALSE(old_.running);
    EXPECT_EQ(old_.resumes, 0);
    EXPECT_EQ(old_.releases, 1);
    EXPECT_TRUE(new_.running);
    EXPECT_EQ(new_.runs, 1);
    EXPECT_EQ(new_.value, 42u);
    EXPECT_EQ(new_.config, "two vCPUs");
    EXPECT_TRUE(new_.RamIntact());
  }

  // The guest is in the old side as if nothing had been asked.
  void ExpectOldRuns(const std::string& why) {
    EXPECT_THAT(std::string(old_status_.message()), HasSubstr(why));
    EXPECT_TRUE(old_.running);
    EXPECT_EQ(old_.resumes, old_.pauses);
    EXPECT_EQ(old_.releases, 0);
    EXPECT_TRUE(old_.RamIntact());
    EXPECT_FALSE(new_.running);
    EXPECT_EQ(new_.runs, 0);
  }

  const cpr::testing::TempFolder folder_;
  const std::string path_ = folder_.File("cpr.sock"), main_path_ = folder_.File("main.sock");
  ToyVm old_, new_;
  std::unique_ptr<TransferIncoming> incoming_;
  std::vector<absl::Status> refused_;
  absl::Duration handshake_timeout_ = absl::Seconds(10);
  absl::Status old_status_, new_status_;
};

TEST_F(TransferTest, GuestMovesOverOneChannel) {
  Handover(/*main_channel=*/false);
  ExpectNewRuns();
  struct stat old_extra, new_extra;
  ASSERT_EQ(::fstat(old_.extra.get(), &old_extra), 0);
  ASSERT_EQ(::fstat(new_.extra.get(), &new_extra), 0);
  EXPECT_EQ(old_extra.st_ino, new_extra.st_ino) << "the fd that arrived is another file";
  EXPECT_GT(incoming_->pause_ns(), 0);
}

TEST_F(TransferTest, GuestMovesOverTwoChannels) {
  CPR_ASSERT_OK_AND_ASSIGN(UniqueFd listener, ListenUnixStream(main_path_));
  ASSERT_THAT(incoming_->ListenMain(std::move(listener)), IsOk());
  Handover(/*main_channel=*/true);
  ExpectNewRuns();
}

// What the old side does then would take the CPU from it.
TEST_F(TransferTest, OldSideHearsThatTheGuestRunsOnlyWhenItHasRunForAMoment) {
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Outgoing> outgoing, MakeOutgoing(/*main_channel=*/false));
  const absl::Time begin = absl::Now();
  while (!new_.running) {
    ASSERT_THAT(outgoing->Advance().status(), IsOk());
    CPR_ASSERT_OK_AND_ASSIGN(const bool over, incoming_->Advance());
    EXPECT_FALSE(over) << "the old side was told at once";
  }
  CPR_ASSERT_OK_AND_ASSIGN(const bool told, outgoing->Advance());
  EXPECT_FALSE(told);
  EXPECT_EQ(old_.releases, 0);
  ASSERT_THAT(incoming_->Run(), IsOk());
  ASSERT_THAT(outgoing->Run(), IsOk());
  ExpectNewRuns();
  const int64_t commit_ns = outgoing->phase_times_ns()[static_cast<size_t>(Phase::kCommit)];
  EXPECT_LE(commit_ns, absl::ToInt64Nanoseconds(absl::Now() - begin - absl::Milliseconds(2)))
      << "the old side's commit counts the time for which the new side held its word back";
}

TEST_F(TransferTest, StrangerOnTheMainChannelIsIgnored) {
  CPR_ASSERT_OK_AND_ASSIGN(UniqueFd listener, ListenUnixStream(main_path_));
  ASSERT_THAT(incoming_->ListenMain(std::move(listener)), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(UniqueFd silent, ConnectUnixStream(main_path_));
  CPR_ASSERT_OK_AND_ASSIGN(UniqueFd loud, ConnectUnixStream(main_path_));
  ASSERT_EQ(::write(loud.get(), "this is not the token, not at all", 33), 33);
  Handover(/*main_channel=*/true);
  ExpectNewRuns();
  ASSERT_EQ(refused_.size(), 1u);
  EXPECT_THAT(std::string(refused_[0].message()), HasSubstr("token"));
}

TEST_F(TransferTest, PhasesComeInOrder) {
  std::vector<std::string> phases;
  Handover(false, [&](Phase phase) { phases.emplace_back(PhaseName(phase)); });
  EXPECT_THAT(phases, ::testing::ElementsAre("check", "prepare", "stop", "save", "commit", "resume"));
}

TEST_F(TransferTest, BlockerRefusesBeforeAnythingIsTouched) {
  old_.blockers = {"a device that cannot move"};
  auto outgoing = MakeOutgoing(false);
  ASSERT_THAT(outgoing.status(), IsOk());
  old_status_ = (*outgoing)->Run();
  ExpectOldRuns("a device that cannot move");
  EXPECT_EQ(old_.pauses, 0);
}

TEST_F(TransferTest, PrivateRamIsRefusedInQemusWords) {
  old_ = ToyVm();
  ASSERT_THAT(old_.Start("x", 1, "private"), IsOk());
  auto outgoing = MakeOutgoing(false);
  ASSERT_THAT(outgoing.status(), IsOk());
  old_status_ = (*outgoing)->Run();
  ExpectOldRuns(
      "Memory region toy.ram is not compatible with CPR. share=on is required for memory-backend objects, and "
      "aux-ram-share=on is required.");
}

TEST_F(TransferTest, NewSideThatCannotReadASectionIsNamedWithIt) {
  old_.version = old_.min_reader_version = 4;
  auto outgoing = MakeOutgoing(false);
  ASSERT_THAT(outgoing.status(), IsOk());
  std::thread other([this] {
    while (refused_.empty()) {
      if (!incoming_->Advance().ok()) return;
    }
  });
  old_status_ = (*outgoing)->Run();
  other.join();
  ExpectOldRuns("section 'toy/register' instance 0 version 4: needs reader >= 4, this reader knows 1");
  EXPECT_EQ(old_.pauses, 0);
}

TEST_F(TransferTest, FailureOfTheNewSideAtAnyCallLeavesTheGuestInTheOld) {
  for (const std::string call : {"build", "load", "apply"}) {
    SCOPED_TRACE(call);
    new_.fault = [&call](absl::string_view now) {
      return now == call ? absl::InternalError("no luck") : absl::OkStatus();
    };
    Handover(false);
    ExpectOldRuns("no luck");
    EXPECT_THAT(std::string(new_status_.message()), HasSubstr("no luck"));
    ListenAgain();
  }
}

TEST_F(TransferTest, FailureOfTheOldSideAtAnyCallLeavesTheGuestInTheOld) {
  for (const std::string call : {"describe", "pause", "save"}) {
    SCOPED_TRACE(call);
    old_.fault = [&call](absl::string_view now) {
      return now == call ? absl::InternalError("no luck") : absl::OkStatus();
    };
    auto outgoing = MakeOutgoing(false);
    ASSERT_THAT(outgoing.status(), IsOk());
    std::thread other([this] { new_status_ = incoming_->Run(); });
    old_status_ = (*outgoing)->Run();
    outgoing->reset();
    if (call == "describe") {  // the new side has met a peer that hung up, and waits for the next
      old_.fault = nullptr;
      auto again = MakeOutgoing(false);
      ASSERT_THAT(again.status(), IsOk());
      EXPECT_THAT((*again)->Run(), IsOk());
      other.join();
      EXPECT_TRUE(new_.running);
      new_ = ToyVm();
      old_ = ToyVm();
      ASSERT_THAT(old_.Start("two vCPUs", 42), IsOk());
    } else {
      other.join();
      ExpectOldRuns("no luck");
      EXPECT_FALSE(new_status_.ok()) << "the new side must not run a guest that was not sent";
    }
    ListenAgain();
  }
}

TEST_F(TransferTest, CancelBeforeTheCommitLeavesTheGuestInTheOld) {
  auto outgoing = MakeOutgoing(false);
  ASSERT_THAT(outgoing.status(), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const bool done, (*outgoing)->Advance());
  EXPECT_FALSE(done);
  old_status_ = (*outgoing)->Cancel();
  EXPECT_THAT(old_status_, StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
  ExpectOldRuns("cancelled");
}

TEST_F(TransferTest, SilentNewSideCostsTheDeadlineAndNothingElse) {
  CPR_ASSERT_OK_AND_ASSIGN(PacketSocket socket, PacketSocket::Connect(path_));
  TransferOutgoingOptions options{std::move(socket), nullptr, {}, nullptr};
  options.timeouts.check = absl::Milliseconds(20);
  CPR_ASSERT_OK_AND_ASSIGN(auto outgoing, CreateTransferOutgoing(std::move(options), &old_));
  old_status_ = outgoing->Run();
  ExpectOldRuns(absl::StrCat("the new side (process ", ::getpid(), ") did not answer in time, phase check"));
  EXPECT_EQ(old_.pauses, 0);
}

TEST_F(TransferTest, SilentOldSideIsNamedAndTheRealPeerServed) {
  handshake_timeout_ = absl::Milliseconds(20);
  ListenAgain();
  CPR_ASSERT_OK_AND_ASSIGN(PacketSocket silent, PacketSocket::Connect(path_));
  while (refused_.empty()) {
    ASSERT_THAT(WaitReadable(incoming_->fd(), absl::Now() + absl::Seconds(10)), IsOk());
    ASSERT_THAT(incoming_->Advance().status(), IsOk());
  }
  EXPECT_THAT(std::string(refused_[0].message()),
              HasSubstr(absl::StrCat("process ", ::getpid(), " has not sent a Hello within 20ms")));
  Handover(false);
  ExpectNewRuns();
}

TEST_F(TransferTest, ManySilentStrangersAtTheMainChannelDoNotCrowdThePeerOut) {
  CPR_ASSERT_OK_AND_ASSIGN(UniqueFd listener, ListenUnixStream(main_path_));
  ASSERT_THAT(incoming_->ListenMain(std::move(listener)), IsOk());
  std::vector<UniqueFd> silent(8);  // all that the queue holds beside the peer
  for (UniqueFd& fd : silent) {
    CPR_ASSERT_OK_AND_ASSIGN(fd, ConnectUnixStream(main_path_));
  }
  Handover(/*main_channel=*/true);
  ExpectNewRuns();
}

// What a peer says becomes part of one line of ours.
TEST_F(TransferTest, WordsOfAPeerAreOneLine) {
  new_.fault = [](absl::string_view call) {
    return call == "build" ? absl::InternalError("first\nsecond") : absl::OkStatus();
  };
  Handover(false);
  ExpectOldRuns("first second");
}

TEST_F(TransferTest, RubbishAtTheCprChannelIsRefusedAndTheRealPeerServed) {
  for (const std::string& rubbish :
       {std::string("GET / HTTP/1.1\r\n\r\n"), std::string(1000, '\xff'), std::string("\x1a\0", 2)}) {
    CPR_ASSERT_OK_AND_ASSIGN(PacketSocket socket, PacketSocket::Connect(path_));
    ASSERT_THAT(socket.Send(rubbish, {0, 1, 2}), IsOk());
    ASSERT_THAT(incoming_->Advance().status(), IsOk());
  }
  EXPECT_EQ(refused_.size(), 3u);
  Handover(false);
  ExpectNewRuns();
}

// The peer says Hello and Prepare and then dies, or sends other fds than it announced.
TEST_F(TransferTest, PeerThatSendsOtherFdsThanAnnouncedIsRefused) {
  for (const size_t fd_count : {0u, 1u, 2u, 4u}) {
    SCOPED_TRACE(fd_count);
    refused_.clear();
    CPR_ASSERT_OK_AND_ASSIGN(PacketSocket socket, PacketSocket::Connect(path_));
    HandoverChannel channel(std::move(socket));
    ASSERT_THAT(channel.Send(HelloMessage(v1::HANDOVER_MODE_TRANSFER, {}, false)), IsOk());
    v1::HandoverMessage prepare;
    prepare.mutable_prepare();
    ASSERT_THAT(channel.Send(prepare, std::vector<int>(fd_count, 0)), IsOk());
    ASSERT_THAT(incoming_->Advance().status(), IsOk());
    ASSERT_EQ(refused_.size(), 1u);
    EXPECT_THAT(std::string(refused_[0].message()), HasSubstr("Prepare carries"));
  }
}

}  // namespace
}  // namespace cpr
