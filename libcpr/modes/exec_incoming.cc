#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/exec.h"
#include "libcpr/modes/exec_environment.h"
#include "libcpr/modes/own_sections.h"
#include "libcpr/modes/state_memfd.h"
#include "libcpr/preserve/execve.h"
#include "libcpr/preserve/keeper.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/proto_payload.h"

namespace cpr {
namespace {

absl::StatusOr<v1::ExecState> ExecStateOf(const ContainerReader& reader) {
  const ContainerReader::View* view = reader.Find(kExecSection, 0);
  if (view == nullptr) return absl::DataLossError(absl::StrCat("no section '", kExecSection, "'"));
  return DecodeProto<v1::ExecState>(view->payload, view->info.version, kOwnVersion);
}

// The same descriptors under other numbers. The embedder gets these; the first ones stay for the way back.
absl::StatusOr<FdTable> Duplicate(const FdTable& table) {
  FdTable copy;
  const v1::FdManifest manifest = table.Manifest();
  const std::vector<int> fds = table.fds();
  for (int i = 0; i < manifest.entries_size(); ++i) {
    const v1::FdEntry& entry = manifest.entries(i);
    CPR_RETURN_IF_ERROR(
        copy.AddDup(entry.name(), entry.instance(), static_cast<FdKind>(entry.kind()), fds[static_cast<size_t>(i)]));
  }
  return copy;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ExecHandoff>> ExecHandoff::FromEnvironment() {
  const char* variable = std::getenv(kExecStateVariable);
  if (variable == nullptr) return std::unique_ptr<ExecHandoff>();
  const std::vector<std::string> words = absl::StrSplit(variable, ':');
  int state = -1;
  int keeper = -1;
  int keeper_pid = -1;
  if (words.size() != 3 || !absl::SimpleAtoi(words[0], &state) || !absl::SimpleAtoi(words[1], &keeper) ||
      !absl::SimpleAtoi(words[2], &keeper_pid) || ::fcntl(state, F_GETFD) < 0) {
    return absl::InvalidArgumentError(absl::StrCat(kExecStateVariable, "=", variable, " is not what cpr-exec sets"));
  }
  auto handoff = std::unique_ptr<ExecHandoff>(new ExecHandoff);
  handoff->state_.Reset(state);
  handoff->keeper_.Reset(keeper);
  handoff->keeper_pid_ = keeper_pid;
  handoff->by_keeper_ = std::getenv(kExecKeeperVariable) != nullptr;
  if (const char* why = std::getenv(kExecReturnVariable)) handoff->returned_because_ = why;
  CPR_RETURN_IF_ERROR(SetCloexec(state, true));
  if (keeper >= 0) CPR_RETURN_IF_ERROR(SetCloexec(keeper, true));
  for (const char* name : {kExecStateVariable, kExecKeeperVariable, kExecReturnVariable}) ::unsetenv(name);
  return handoff;
}

absl::Status ExecHandoff::ReturnToOldProgram(const absl::Status& why) {
  if (returned_because_.has_value()) return why;  // this is the old program: there is nobody behind it
  CPR_ASSIGN_OR_RETURN(const std::string bytes, ReadContainer(state_.get()));
  CPR_ASSIGN_OR_RETURN(const ContainerReader reader, ContainerReader::Parse(bytes));
  CPR_ASSIGN_OR_RETURN(const v1::ExecState state, ExecStateOf(reader));
  std::vector<int> kept = ExecFdNumbers(state.manifest());
  kept.push_back(state_.get());
  kept.push_back(state.old_program_fd());
  if (keeper_.ok()) kept.push_back(keeper_.get());
  ExecSet survivors(kept);
  CPR_RETURN_IF_ERROR(survivors.Arm());
  const ExecStrings argv(std::vector<std::string>(state.old_argv().begin(), state.old_argv().end()));
  const ExecStrings environment(ExecEnvironment({ExecStateEntry(state_.get(), keeper_.get(), keeper_pid_),
                                                 absl::StrCat(kExecReturnVariable, "=", why.message())}));
  ::fexecve(state.old_program_fd(), argv.data(), environment.data());
  return ErrnoStatus(errno, "execve of the program before");
}

class ExecIncomingImpl : public ExecIncoming {
 public:
  ExecIncomingImpl(std::unique_ptr<ExecHandoff> handoff, ExecIncomingOptions options, IncomingVm* vm, Poller poller)
      : ExecIncoming(Mode::kExec, vm, std::move(options.observer), std::move(poller)), handoff_(std::move(handoff)) {}

  pid_t keeper_pid() const override { return handoff_->keeper_pid_; }

  absl::Status Arm() {
    always_.Reset(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!always_.ok()) return ErrnoStatus(errno, "eventfd");
    return poller_.Watch(always_.get(), EPOLLIN);
  }

 private:
  absl::StatusOr<Next> Step() override;
  bool Take() override { return handoff_->by_keeper_ ? ownership_->TakeReturned() : ownership_->Take(); }
  void Drop(const absl::Status& why) override { handoff_->ReturnToOldProgram(why).IgnoreError(); }

  std::unique_ptr<ExecHandoff> handoff_;
  UniqueFd always_;
  FdTable kept_;  // under the numbers that the state knows, for the way back
};

absl::StatusOr<Incoming::Next> ExecIncomingImpl::Step() {
  Enter(Phase::kCheck);
  CPR_ASSIGN_OR_RETURN(const std::string bytes, ReadContainer(handoff_->state_.get()));
  CPR_ASSIGN_OR_RETURN(const ContainerReader reader, ContainerReader::Parse(bytes));
  CPR_RETURN_IF_ERROR(CheckSections(reader));
  CPR_ASSIGN_OR_RETURN(const v1::ExecState state, ExecStateOf(reader));
  UniqueFd old_program(state.old_program_fd());
  absl::Status cloexec = SetCloexec(old_program.get(), true);
  const int old_program_number = old_program.Release();  // stays open, whatever fails below, for the way back
  CPR_RETURN_IF_ERROR(cloexec);
  Enter(Phase::kPrepare);
  CPR_ASSIGN_OR_RETURN(ownership_, Ownership::Map(handoff_->state_.get(), kOwnershipOffsetBytes, /*sealed=*/false));
  CPR_ASSIGN_OR_RETURN(kept_, AdoptExecFds(state.manifest()));
  CPR_ASSIGN_OR_RETURN(FdTable table, Duplicate(kept_));
  // "cpr/exec" has been read above; its load has nothing left to do.
  std::vector<Section> also;
  also.push_back(LoadOnly(OwnSectionInfo(kExecSection, Stage::kEarly),
                          [](absl::string_view, uint32_t) { return absl::OkStatus(); }));
  CPR_RETURN_IF_ERROR(Build(reader, std::move(table), std::move(also)));
  CPR_RETURN_IF_ERROR(Restore(reader));
  CPR_RETURN_IF_ERROR(TakeAndRun());
  // The guest runs: no way back is needed any more.
  ::close(old_program_number);
  if (handoff_->keeper_.ok()) TellKeeper(std::move(handoff_->keeper_)).IgnoreError();
  kept_ = FdTable();
  return Next::kDone;
}

absl::StatusOr<std::unique_ptr<ExecIncoming>> CreateExecIncoming(std::unique_ptr<ExecHandoff> handoff,
                                                                 ExecIncomingOptions options, IncomingVm* vm) {
  CPR_ASSIGN_OR_RETURN(Poller poller, Poller::Create());
  auto incoming = std::make_unique<ExecIncomingImpl>(std::move(handoff), std::move(options), vm, std::move(poller));
  CPR_RETURN_IF_ERROR(incoming->Arm());
  return incoming;
}

}  // namespace cpr
