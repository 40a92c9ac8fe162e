#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/exec.h"
#include "libcpr/modes/exec_check.h"
#include "libcpr/modes/exec_environment.h"
#include "libcpr/modes/own_sections.h"
#include "libcpr/modes/state_memfd.h"
#include "libcpr/preserve/execve.h"
#include "libcpr/preserve/keeper.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/proto_payload.h"

namespace cpr {
namespace {

class ExecOutgoing : public Outgoing {
 public:
  ExecOutgoing(ExecOutgoingOptions options, OutgoingVm* vm, Poller poller)
      : Outgoing(Mode::kExec, vm, std::move(options.observer), std::move(poller)), options_(std::move(options)) {}

 private:
  enum class At { kStart, kAsked, kPause };

  absl::StatusOr<Next> Step() override;
  void Drop(const absl::Status&) override;

  absl::StatusOr<Next> Start();
  absl::StatusOr<Next> AwaitAnswer();
  absl::Status Prepare();
  absl::Status MapOwnership();
  absl::Status StartKeeper();
  absl::StatusOr<Next> PauseAndSave();
  absl::Status WriteState();
  // Returns only on error.
  absl::Status Exec();
  std::vector<int> KeptFds() const;
  absl::Status AddExecSection();

  ExecOutgoingOptions options_;
  At at_ = At::kStart;
  std::unique_ptr<ExecCheck> check_;
  UniqueFd old_program_;
  std::string state_;
  std::unique_ptr<ContainerWriter> writer_;
  std::optional<Keeper> keeper_;
};

absl::StatusOr<Outgoing::Next> ExecOutgoing::Step() {
  switch (at_) {
    case At::kStart:
      return Start();
    case At::kAsked:
      return AwaitAnswer();
    case At::kPause:
      return PauseAndSave();
  }
  return absl::InternalError("a step that does not exist");
}

void ExecOutgoing::Drop(const absl::Status&) {
  if (check_ != nullptr) poller_.Forget(check_->fd());
  check_.reset();
  // Before the file is cut under the word that it looks at.
  keeper_.reset();
  // A state that nobody will resume is no state: cut short, no reader takes it for one.
  if (options_.state_file.ok() && ::ftruncate(options_.state_file.get(), 0) != 0) return;
}

absl::StatusOr<Outgoing::Next> ExecOutgoing::Start() {
  Enter(Phase::kCheck);
  if (options_.command.empty()) return absl::InvalidArgumentError("cpr-exec mode requires setting cpr-exec-command");
  CPR_RETURN_IF_ERROR(Collect());
  CPR_RETURN_IF_ERROR(AddSharedRam(inventory_));
  if (!options_.state_file.ok()) {
    CPR_ASSIGN_OR_RETURN(options_.state_file, CreateStateMemfd());
  }
  CPR_ASSIGN_OR_RETURN(old_program_, OpenFile("/proc/self/exe", O_RDONLY));
  CPR_RETURN_IF_ERROR(AddExecSection());
  CPR_ASSIGN_OR_RETURN(check_, ExecCheck::Start(options_.command, inventory_.sections.Infos()));
  CPR_RETURN_IF_ERROR(poller_.Watch(check_->fd(), EPOLLIN));
  poller_.SetDeadline(options_.check_timeout);
  at_ = At::kAsked;
  return Next::kWait;
}

absl::Status ExecOutgoing::AddExecSection() {
  v1::ExecState state;
  CPR_ASSIGN_OR_RETURN(*state.mutable_manifest(), DescribeExecFds(inventory_.fds));
  state.set_old_program_fd(old_program_.get());
  for (const std::string& word : options_.own_argv) state.add_old_argv(word);
  return inventory_.sections.Add(
      SaveOnly(OwnSectionInfo(kExecSection, Stage::kEarly),
               [state = std::move(state)](std::string* payload) { return EncodeProto(state, payload); }));
}

absl::StatusOr<Outgoing::Next> ExecOutgoing::AwaitAnswer() {
  const absl::Status answer = check_->Answer();
  if (absl::IsUnavailable(answer)) {
    if (!poller_.deadline_passed()) return Next::kWait;
    return absl::DeadlineExceededError(absl::StrCat(options_.command[0],
                                                    ": asked whether it can take the guest over, it did not answer in ",
                                                    absl::FormatDuration(options_.check_timeout)));
  }
  CPR_RETURN_IF_ERROR(answer);
  poller_.Forget(check_->fd());
  check_.reset();
  CPR_RETURN_IF_ERROR(Prepare());
  at_ = At::kPause;
  return Next::kAgain;
}

absl::Status ExecOutgoing::Prepare() {
  Enter(Phase::kPrepare);
  writer_ = std::make_unique<ContainerWriter>(&state_);
  CPR_RETURN_IF_ERROR(SaveSections(inventory_.sections, Stage::kEarly, *writer_));
  CPR_RETURN_IF_ERROR(MapOwnership());
  return StartKeeper();
}

absl::Status ExecOutgoing::MapOwnership() {
  // Written, not only made room for: touching a hole in a file on a full disk would be a SIGBUS.
  OwnershipBlock block;
  block.word = static_cast<uint64_t>(Owner::kOld);
  std::string bytes(kHeaderBytes, '\0');
  std::memcpy(bytes.data() + kOwnershipOffsetBytes, &block, sizeof(block));
  CPR_RETURN_IF_ERROR(Annotate(PwriteAll(options_.state_file.get(), bytes, 0), "state of cpr-exec"));
  CPR_ASSIGN_OR_RETURN(ownership_, Ownership::Map(options_.state_file.get(), kOwnershipOffsetBytes, /*sealed=*/false));
  return absl::OkStatus();
}

absl::StatusOr<Outgoing::Next> ExecOutgoing::PauseAndSave() {
  CPR_RETURN_IF_ERROR(PauseGuest());
  Enter(Phase::kSave);
  CPR_RETURN_IF_ERROR(SaveSections(inventory_.sections, Stage::kLate, *writer_));
  CPR_RETURN_IF_ERROR(writer_->Finish());
  CPR_RETURN_IF_ERROR(WriteState());
  // From here on the guest survives this process: the keeper may take it.
  ownership_->Offer();
  Enter(Phase::kCommit);
  return Exec();
}

absl::Status ExecOutgoing::WriteState() {
  // The word stays what it is: only Offer says that the state is whole.
  OwnershipBlock block;
  block.word = static_cast<uint64_t>(Owner::kOld);
  std::memcpy(state_.data() + kOwnershipOffsetBytes, &block, sizeof(block));
  return Annotate(PwriteAll(options_.state_file.get(), state_, 0), "state of cpr-exec");
}

std::vector<int> ExecOutgoing::KeptFds() const {
  std::vector<int> kept = inventory_.fds.fds();
  kept.push_back(options_.state_file.get());
  kept.push_back(old_program_.get());
  return kept;
}

absl::Status ExecOutgoing::Exec() {
  ExecSet survivors(KeptFds());
  CPR_RETURN_IF_ERROR(survivors.Arm());
  const ExecStrings argv(options_.command);
  const ExecStrings environment(
      ExecEnvironment({ExecStateEntry(options_.state_file.get(), keeper_->release_fd(), keeper_->pid())}));
  ::execvpe(argv.data()[0], argv.data(), environment.data());
  return ErrnoStatus(errno, absl::StrCat("execvp ", options_.command[0], " failed"));
}

// While the guest still runs: then there is no moment at which a whole state is in one process's hands only.
absl::Status ExecOutgoing::StartKeeper() {
  const ExecStrings argv(options_.own_argv);
  const ExecStrings environment(ExecEnvironment(
      {ExecStateEntry(options_.state_file.get(), -1, -1), absl::StrCat(kExecKeeperVariable, "=1"),
       absl::StrCat(kExecReturnVariable, "=", options_.command[0], " ended before the guest ran in it")}));
  KeeperOptions options;
  options.argv = argv.data();
  options.envp = environment.data();
  options.exe_fd = old_program_.get();
  options.word = ownership_->word();
  options.expected = static_cast<uint64_t>(Owner::kOffered);
  options.desired = static_cast<uint64_t>(Owner::kReturned);
  options.keep_open = KeptFds();
  if (options_.close_in_keeper) options.close_in_keeper = options_.close_in_keeper();
  CPR_ASSIGN_OR_RETURN(keeper_, Keeper::Start(options));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Outgoing>> CreateExecOutgoing(ExecOutgoingOptions options, OutgoingVm* vm) {
  CPR_ASSIGN_OR_RETURN(Poller poller, Poller::Create());
  return std::make_unique<ExecOutgoing>(std::move(options), vm, std::move(poller));
}

}  // namespace cpr
