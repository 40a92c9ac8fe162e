// The other side of a handover that cannot or will not do its part: programs that cannot read the sections, peers that
// are silent, send rubbish, or other descriptors than they announce.

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/modes/handover_channel.h"
#include "libcpr/preserve/socket.h"
#include "libcpr/testing/matchers.h"
#include "tests/driver/fault.h"
#include "tests/driver/guest_rig.h"
#include "tests/kvm/bad_input.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

// Whether `vmm` says `words` to its user, before long: it may have told its peer first.
bool Says(const Vmm& vmm, absl::string_view words) {
  const absl::Time deadline = absl::Now() + kTimeout;
  while (!absl::StrContains(vmm.Log(), words)) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

// --- programs that cannot read the sections

struct Reader {
  const char* name;
  const char* section;
  const char* version;  // that it knows; "": not even the name
  const char* refusal;
};

class BadReader : public BadInput, public ::testing::WithParamInterface<Reader> {
 protected:
  static std::vector<std::string> Prefix() { return ReadsPrefix(GetParam().section, GetParam().version); }
  // It was refused in check: the guest never stood still.
  void ExpectNeverPaused() {
    CPR_ASSERT_OK_AND_ASSIGN(const auto times, vmm().PhaseTimes());
    EXPECT_GT(times[static_cast<int>(Phase::kCheck)], 0);
    EXPECT_EQ(times[static_cast<int>(Phase::kPrepare)], 0);
    EXPECT_EQ(times[static_cast<int>(Phase::kStop)], 0);
  }
};

TEST_P(BadReader, IsRefusedInTheCheckOfExec) {
  std::vector<std::string> command = Prefix();
  for (const std::string& word : rig_->ExecCommand("memfd:")) command.push_back(word);
  ExpectFails(GetParam().refusal, [&] { return Exec(command); });
  ExpectNeverPaused();
}

TEST_P(BadReader, IsRefusedInTheCheckOfTransfer) {
  const std::string path = rig_->NextName("cpr");
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next,
                           rig_->StartAnother(GuestRig::TransferWords(absl::StrCat("unix:", path), path), Prefix()));
  ExpectFails(GetParam().refusal, [&] { return Transfer(path); });
  ExpectNeverPaused();
  EXPECT_THAT(next.RunState().value_or("gone"), "inmigrate");
  EXPECT_TRUE(Says(next, GetParam().refusal)) << "the new side says it to its user, too";
}

INSTANTIATE_TEST_SUITE_P(
    Readers, BadReader,
    ::testing::Values(
        Reader{"OldSerial", "serial", "0",
               "section 'serial' instance 0 version 1: needs reader >= 1, this reader knows 0"},
        Reader{"NoIoapic", "ioapic", "", "section 'ioapic' instance 0 version 1: this reader does not know"},
        Reader{"OldMachine", "machine", "0", "section 'machine' instance 0 version 1: needs reader >= 1"}),
    [](const auto& info) { return std::string(info.param.name); });

// --- peers of a cpr-transfer

TEST_F(BadInput, TransferToNobody) {
  const std::string path = rig_->File("nobody");
  ExpectFails(path, [&] { return Transfer(path); });
}

// Listens as a new VMM would, and does `serve` with the VMM that connects.
absl::Status ServeOne(PacketSocket& listener, const std::function<void(PacketSocket&)>& serve) {
  const absl::Status ready = WaitReadable(listener.fd(), absl::Now() + kTimeout);
  if (!ready.ok()) return ready;
  absl::StatusOr<PacketSocket> socket = listener.Accept();
  if (!socket.ok()) return socket.status();
  serve(*socket);
  return absl::OkStatus();
}

class BadPeer : public BadInput {
 protected:
  // A transfer to a peer that does `serve` instead of a handshake.
  absl::Status TransferTo(const std::function<void(PacketSocket&)>& serve) {
    const std::string path = rig_->NextName("cpr");
    absl::StatusOr<PacketSocket> listener = PacketSocket::Listen(path);
    if (!listener.ok()) return listener.status();
    if (const absl::Status set = vmm().SetMode(Mode::kTransfer); !set.ok()) return set;
    const std::string main_uri = absl::StrCat("unix:", rig_->File("main"));
    if (const absl::Status begun = vmm().MigrateChannels(main_uri, path); !begun.ok()) return begun;
    if (const absl::Status served = ServeOne(*listener, serve); !served.ok()) return served;
    return vmm().qmp().AwaitMigration(kTimeout);
  }
};

TEST_F(BadPeer, HangsUpAtOnce) {
  ExpectFails("failed",
              [&] { return TransferTo([](PacketSocket& socket) { const PacketSocket closed = std::move(socket); }); });
}

TEST_F(BadPeer, SendsRubbish) {
  ExpectFails("failed", [&] {
    return TransferTo([](PacketSocket& socket) {
      EXPECT_THAT(socket.Send(std::string(4000, '\xee')), IsOk());
      WaitReadable(socket.fd(), absl::Now() + kTimeout).IgnoreError();
    });
  });
}

TEST_F(BadPeer, SendsFdsThatNobodyAskedFor) {
  ExpectFails("failed", [&] {
    return TransferTo([](PacketSocket& socket) {
      const std::vector<int> fds(PacketSocket::kMaxFds, 1);
      EXPECT_THAT(socket.Send("x", fds), IsOk());
      WaitReadable(socket.fd(), absl::Now() + kTimeout).IgnoreError();
    });
  });
}

// A waiting VMM is not put out by whoever else connects: the real peer comes after the rubbish.
TEST_F(BadInput, StrangersAtANewVmm) {
  const std::string cpr_path = rig_->NextName("cpr");
  const std::string main_uri = absl::StrCat("unix:", rig_->NextName("main"));
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother(GuestRig::TransferWords(main_uri, cpr_path)));
  ASSERT_THAT(next.qmp().AwaitStatus("inmigrate"), IsOk());
  const size_t fds = CountFds(next.process().pid());
  for (int i = 0; i < 3; ++i) {
    CPR_ASSERT_OK_AND_ASSIGN(PacketSocket stranger, PacketSocket::Connect(cpr_path));
    const std::vector<int> gifts(PacketSocket::kMaxFds, 1);
    EXPECT_THAT(stranger.Send(std::string(1000, '\x7f'), gifts), IsOk());
    EXPECT_THAT(WaitReadable(stranger.fd(), absl::Now() + kTimeout), IsOk()) << "it is told, or hung up on";
    EXPECT_THAT(next.RunState().value_or("gone"), "inmigrate");
  }
  ASSERT_THAT(vmm().SetMode(Mode::kTransfer), IsOk());
  ASSERT_THAT(vmm().MigrateChannels(main_uri, cpr_path), IsOk());
  ASSERT_THAT(next.qmp().AwaitStatus("running"), IsOk());
  EXPECT_THAT(vmm().qmp().AwaitStatus("postmigrate"), IsOk());
  rig_->Replace(std::move(next));
  ExpectGuestRunsOn();
  EXPECT_LT(CountFds(vmm().process().pid()), fds + PacketSocket::kMaxFds);
}

TEST_F(BadInput, TransferToAnotherMachine) {
  const std::string cpr_path = rig_->NextName("cpr");
  const std::string main_uri = absl::StrCat("unix:", rig_->File("main"));
  std::vector<std::string> words = GuestRig::TransferWords(main_uri, cpr_path);
  words.insert(words.end(), {"-smp", "2"});
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother(words));
  ASSERT_THAT(next.qmp().AwaitStatus("inmigrate"), IsOk());
  EXPECT_THAT(Transfer(cpr_path), StatusIs(absl::StatusCode::kAborted, HasSubstr("smp")));
  ExpectGuestRunsOn();
}

// --- silence

// The old VMM's peer accepts, and that is all. The guest runs on, and does not notice.
TEST_F(BadPeer, SaysNothing) {
  std::optional<PacketSocket> held;
  ExpectFails(
      absl::StrCat("the new side (process ", ::getpid(), ") did not answer in time, phase check"),
      [&] { return TransferTo([&](PacketSocket& socket) { held = std::move(socket); }); }, /*attempts=*/1);
  CPR_ASSERT_OK_AND_ASSIGN(const auto times, vmm().PhaseTimes());
  EXPECT_EQ(times[static_cast<int>(Phase::kStop)], 0) << "the guest was paused for a silent peer";
}

// A new VMM's peer connects, and that is all: the real one, which comes after it, is served.
TEST_F(BadInput, SilentStrangerAtANewVmm) {
  const std::string path = rig_->NextName("cpr");
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother(GuestRig::TransferWords(absl::StrCat("unix:", path), path)));
  CPR_ASSERT_OK_AND_ASSIGN(PacketSocket silent, PacketSocket::Connect(path));
  EXPECT_THAT(WaitReadable(silent.fd(), absl::Now() + kTimeout), IsOk()) << "it is told, or hung up on";
  EXPECT_THAT(next.Log(), HasSubstr(absl::StrCat("process ", ::getpid(), " has not sent a Hello within 10s")));
  ASSERT_THAT(vmm().SetMode(Mode::kTransfer), IsOk());
  ASSERT_THAT(vmm().MigrateChannels(absl::StrCat("unix:", path), path), IsOk());
  ASSERT_THAT(next.qmp().AwaitStatus("running"), IsOk());
  EXPECT_THAT(vmm().qmp().AwaitStatus("postmigrate"), IsOk());
  rig_->Replace(std::move(next));
  ExpectGuestRunsOn();
}

// --- descriptors that are not what they are said to be

// Stands between an old and a new VMM, and passes on what they say; `alter` may change what the old one sends.
class Between {
 public:
  using Alter = std::function<void(Received&)>;
  static absl::StatusOr<Between> Create(PacketSocket& listener, const std::string& next_path, Alter alter) {
    if (const absl::Status ready = WaitReadable(listener.fd(), absl::Now() + kTimeout); !ready.ok()) return ready;
    absl::StatusOr<PacketSocket> old_side = listener.Accept();
    if (!old_side.ok()) return old_side.status();
    absl::StatusOr<PacketSocket> next = PacketSocket::Connect(next_path);
    if (!next.ok()) return next.status();
    return Between(*std::move(old_side), *std::move(next), std::move(alter));
  }

  // Passes on until a side hangs up or fails, which is returned.
  absl::Status Run() {
    for (;;) {
      pollfd ready[] = {{old_.fd(), POLLIN, 0}, {next_.fd(), POLLIN, 0}};
      if (::poll(ready, 2, static_cast<int>(absl::ToInt64Milliseconds(kTimeout))) <= 0) {
        return absl::DeadlineExceededError("neither side says anything");
      }
      if (ready[0].revents != 0) {
        if (const absl::Status passed = Pass(old_, next_, alter_); !passed.ok()) return passed;
      }
      if (ready[1].revents != 0) {
        if (const absl::Status passed = Pass(next_, old_, nullptr); !passed.ok()) return passed;
      }
    }
  }

 private:
  Between(PacketSocket old_side, PacketSocket next, Alter alter)
      : old_(std::move(old_side)), next_(std::move(next)), alter_(std::move(alter)) {}

  static absl::Status Pass(HandoverChannel& from, HandoverChannel& to, const Alter& alter) {
    absl::StatusOr<Received> received = from.Receive();
    if (!received.ok()) {
      to.Send(FailureMessage(received.status())).IgnoreError();
      return received.status();
    }
    if (alter != nullptr) alter(*received);
    std::vector<int> fds;
    for (const UniqueFd& fd : received->fds) fds.push_back(fd.get());
    return to.Send(received->message, fds);
  }

  HandoverChannel old_, next_;
  Alter alter_;
};

// A pipe's end that nobody writes into.
UniqueFd MakePipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return UniqueFd();
  ::close(ends[1]);
  return UniqueFd(ends[0]);
}

UniqueFd MakeMemfd(uint64_t size_bytes, int seals) {
  UniqueFd fd(::memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size_bytes)), 0);
  EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

constexpr int kRamSeals = F_SEAL_SHRINK | F_SEAL_GROW;

// What a hostile old side puts in the place of the guest's RAM, and what it says of it.
struct Forgery {
  const char* name;
  UniqueFd (*make)(uint64_t size_bytes);
  void (*say)(v1::FdEntry& entry);  // in the manifest; null: the truth about the real one
  const char* refusal;
};

const Forgery kForgeries[] = {
    {"APipe", [](uint64_t) { return MakePipe(); }, nullptr, "fd 'ram:ram0' instance 0: is not a memfd but pipe:"},
    {"AnUnsealedMemfd", [](uint64_t size) { return MakeMemfd(size, 0); }, nullptr,
     "fd 'ram:ram0' instance 0: is a memfd with seals 0, the manifest says 6"},
    {"AShortMemfd", [](uint64_t) { return MakeMemfd(4096, kRamSeals); }, nullptr,
     "fd 'ram:ram0' instance 0: is a memfd of 4096 bytes, the manifest says"},
    {"AnUnsealedMemfdThatIsAnnounced", [](uint64_t size) { return MakeMemfd(size, 0); },
     [](v1::FdEntry& entry) { entry.set_seals(0); }, "RAM block 'ram0': the memfd lacks F_SEAL_SHRINK or F_SEAL_GROW"},
    {"AShortMemfdThatIsAnnounced", [](uint64_t) { return MakeMemfd(4096, kRamSeals); },
     [](v1::FdEntry& entry) { entry.set_size_bytes(4096); }, "RAM block 'ram0': the file has 4096 bytes,"},
    {"APipeThatIsAnnounced", [](uint64_t) { return MakePipe(); },
     [](v1::FdEntry& entry) { entry.set_kind(v1::FD_KIND_PIPE); },
     "fd 'ram:ram0' instance 0 is a pipe, a memfd is needed"},
    {"AnotherMemfd", [](uint64_t size) { return MakeMemfd(size, kRamSeals); }, nullptr,
     "RAM block 'ram0': the descriptor is not the file that held the guest's RAM"},
};

class BadFds : public BadInput, public ::testing::WithParamInterface<Forgery> {
 protected:
  // A guest whose RAM is a memfd, in a VMM that is not the rig's.
  void SetUp() override {
    BadInput::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    CPR_ASSERT_OK_AND_ASSIGN(old_, Start({}));
    CPR_ASSERT_OK_AND_ASSIGN(view_, GuestView::Open(RamOf(old_->process().pid())));
    ASSERT_THAT(view_->AwaitRunning(kTimeout), IsOk());
  }

  absl::StatusOr<Vmm> Start(const std::vector<std::string>& incoming) {
    const std::string qmp_path = rig_->NextName("qmp");
    std::vector<std::string> command = {FindBuilt("tests/driver/cpr-vmm-faulty").value()};
    for (std::string word : rig_->Words(qmp_path)) {
      if (absl::StartsWith(word, "memory-backend-file")) word = "memory-backend-memfd,id=ram0,size=512M,share=on";
      if (absl::StartsWith(word, "file:")) word = "null";
      command.push_back(word);
    }
    command.insert(command.end(), incoming.begin(), incoming.end());
    return Vmm::Start(command, qmp_path, absl::StrCat(qmp_path, ".log"));
  }

  static std::string RamOf(pid_t pid) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), error)) {
      const std::string link = std::filesystem::read_symlink(entry.path(), error).string();
      if (absl::StartsWith(link, "/memfd:") && absl::StrContains(link, "ram0")) return entry.path().string();
    }
    return "no memfd";
  }

  // Puts the forgery in the place of the RAM.
  void Forge(Received& received) {
    if (received.message.has_prepare()) {
      for (v1::FdEntry& entry : *received.message.mutable_prepare()->mutable_manifest()->mutable_entries()) {
        if (!absl::StartsWith(entry.name(), "ram:")) continue;
        ram_index_ = entry.fd_index();
        if (GetParam().say != nullptr) GetParam().say(entry);
      }
    }
    if (!received.message.has_fd_batch()) return;
    UniqueFd& ram = received.fds[ram_index_ - received.message.fd_batch().first_index()];
    ram = GetParam().make(std::filesystem::file_size(absl::StrCat("/proc/self/fd/", ram.get())));
  }

  std::optional<Vmm> old_;
  std::optional<GuestView> view_;
  size_t ram_index_ = 0;
};

TEST_P(BadFds, AreRefusedAndTheGuestRunsOn) {
  const std::string path = rig_->NextName("cpr"), between_path = rig_->NextName("between");
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, Start(GuestRig::TransferWords(absl::StrCat("unix:", path), path)));
  CPR_ASSERT_OK_AND_ASSIGN(PacketSocket listener, PacketSocket::Listen(between_path));
  ASSERT_THAT(old_->SetMode(Mode::kTransfer), IsOk());
  ASSERT_THAT(old_->MigrateChannels(absl::StrCat("unix:", between_path), between_path), IsOk());
  {
    CPR_ASSERT_OK_AND_ASSIGN(Between between,
                             Between::Create(listener, path, [this](Received& received) { Forge(received); }));
    EXPECT_THAT(between.Run(), StatusIs(absl::StatusCode::kAborted, HasSubstr(GetParam().refusal)));
  }
  EXPECT_THAT(old_->qmp().AwaitMigration(kTimeout),
              StatusIs(absl::StatusCode::kAborted, HasSubstr(GetParam().refusal)));
  EXPECT_TRUE(Says(next, GetParam().refusal));
  EXPECT_NE(next.RunState().value_or("gone"), "running");
  EXPECT_THAT(old_->qmp().AwaitStatus("running", kTimeout), IsOk());
  EXPECT_THAT(view_->AwaitBeats(kTimeout), IsOk());
  EXPECT_THAT(view_->Verify(kTimeout), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const auto times, old_->PhaseTimes());
  EXPECT_EQ(times[static_cast<int>(Phase::kStop)], 0) << "the guest was paused for it";
}

INSTANTIATE_TEST_SUITE_P(Forgeries, BadFds, ::testing::ValuesIn(kForgeries),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace cpr
