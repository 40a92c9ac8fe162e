#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/luo.h"
#include "libcpr/modes/own_sections.h"
#include "libcpr/modes/state_memfd.h"
#include "libcpr/preserve/fd_table.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/proto_payload.h"

namespace cpr {
namespace {

constexpr uint64_t kSmallPageBytes = 4096;

// One token for each file: the kernel takes it once, and blocks of one memfd have duplicates of one fd.
absl::StatusOr<v1::LuoState> AssignTokens(const FdTable& table) {
  v1::LuoState state;
  *state.mutable_manifest() = table.Manifest();
  std::map<std::pair<dev_t, ino_t>, uint64_t> tokens;
  for (const int fd : table.fds()) {
    struct stat info;
    if (::fstat(fd, &info) != 0) return ErrnoStatus(errno, absl::StrCat("fstat of fd ", fd));
    const uint64_t next = kLuoStateToken + 1 + tokens.size();
    state.add_tokens(tokens.emplace(std::make_pair(info.st_dev, info.st_ino), next).first->second);
  }
  return state;
}

absl::Status CheckLuoFds(const v1::FdManifest& manifest) {
  for (const v1::FdEntry& entry : manifest.entries()) {
    const FdKind kind = static_cast<FdKind>(entry.kind());
    if (kind == FdKind::kMemfd) continue;
    return absl::FailedPreconditionError(absl::StrCat("fd '", entry.name(), "' instance ", entry.instance(), " is a ",
                                                      FdKindName(kind), ", and Live Update keeps memfds only"));
  }
  return absl::OkStatus();
}

class LuoOutgoing : public Outgoing {
 public:
  LuoOutgoing(LuoOutgoingOptions options, OutgoingVm* vm, Poller poller)
      : Outgoing(Mode::kLuo, vm, std::move(options.observer), std::move(poller)), options_(std::move(options)) {}

 private:
  enum class At { kStart, kPreserve, kPause };

  absl::StatusOr<Next> Step() override;
  // Nothing is preserved any more.
  void Drop(const absl::Status&) override { session_.reset(); }

  absl::StatusOr<Next> Start();
  absl::StatusOr<Next> Preserve();
  absl::StatusOr<Next> PauseAndSave();
  absl::Status AddLuoSection();
  absl::Status CreateSession();
  absl::Status PreserveState();

  const LuoOutgoingOptions options_;
  At at_ = At::kStart;
  std::map<uint64_t, int> files_;  // to be preserved, by token; the inventory's fds
  std::optional<LiveUpdateSession> session_;
  UniqueFd state_fd_;
  std::string state_;
  std::unique_ptr<ContainerWriter> writer_;
};

absl::StatusOr<Outgoing::Next> LuoOutgoing::Step() {
  switch (at_) {
    case At::kStart:
      return Start();
    case At::kPreserve:
      return Preserve();
    case At::kPause:
      return PauseAndSave();
  }
  return absl::InternalError("a step that does not exist");
}

absl::StatusOr<Outgoing::Next> LuoOutgoing::Start() {
  Enter(Phase::kCheck);
  CPR_RETURN_IF_ERROR(Collect());
  CPR_RETURN_IF_ERROR(AddSharedRam(inventory_));
  for (const RamBlock& block : inventory_.blocks) CPR_RETURN_IF_ERROR(CheckLuoRam(block));
  CPR_RETURN_IF_ERROR(AddLuoSection());
  CPR_RETURN_IF_ERROR(CreateSession());
  Enter(Phase::kPrepare);
  CPR_ASSIGN_OR_RETURN(state_fd_, CreateStateMemfd());
  writer_ = std::make_unique<ContainerWriter>(&state_);
  CPR_RETURN_IF_ERROR(SaveSections(inventory_.sections, Stage::kEarly, *writer_));
  at_ = At::kPreserve;
  return Next::kWait;
}

absl::Status LuoOutgoing::AddLuoSection() {
  CPR_ASSIGN_OR_RETURN(v1::LuoState state, AssignTokens(inventory_.fds));
  CPR_RETURN_IF_ERROR(CheckLuoFds(state.manifest()));
  const std::vector<int> fds = inventory_.fds.fds();
  for (size_t i = 0; i < fds.size(); ++i) files_.emplace(state.tokens(static_cast<int>(i)), fds[i]);
  return inventory_.sections.Add(
      SaveOnly(OwnSectionInfo(kLuoSection, Stage::kEarly),
               [state = std::move(state)](std::string* payload) { return EncodeProto(state, payload); }));
}

absl::Status LuoOutgoing::CreateSession() {
  // For the moment only: others want the device, too.
  CPR_ASSIGN_OR_RETURN(LiveUpdate device, options_.open ? options_.open() : LiveUpdate::Open());
  CPR_ASSIGN_OR_RETURN(session_, device.CreateSession(options_.session));
  return absl::OkStatus();
}

absl::StatusOr<Outgoing::Next> LuoOutgoing::Preserve() {
  if (files_.empty()) {
    at_ = At::kPause;
    return Next::kAgain;
  }
  const auto file = files_.begin();
  CPR_RETURN_IF_ERROR(session_->PreserveFd(file->second, file->first));
  files_.erase(file);
  return Next::kWait;
}

absl::StatusOr<Outgoing::Next> LuoOutgoing::PauseAndSave() {
  CPR_RETURN_IF_ERROR(PauseGuest());
  Enter(Phase::kSave);
  CPR_RETURN_IF_ERROR(SaveSections(inventory_.sections, Stage::kLate, *writer_));
  CPR_RETURN_IF_ERROR(writer_->Finish());
  CPR_RETURN_IF_ERROR(PreserveState());
  Enter(Phase::kCommit);
  ownership_->Offer();
  Enter(Phase::kResume);
  ReleaseGuest();
  return Next::kDone;
}

absl::Status LuoOutgoing::PreserveState() {
  OwnershipBlock block;
  block.word = static_cast<uint64_t>(Owner::kOld);
  std::memcpy(state_.data() + kOwnershipOffsetBytes, &block, sizeof(block));
  CPR_RETURN_IF_ERROR(Annotate(PwriteAll(state_fd_.get(), state_, 0), "state of cpr-luo"));
  CPR_ASSIGN_OR_RETURN(ownership_, Ownership::Map(state_fd_.get(), kOwnershipOffsetBytes, /*sealed=*/false));
  return session_->PreserveFd(state_fd_.get(), kLuoStateToken);
}

}  // namespace

absl::Status CheckLuoRam(const RamBlock& block) {
  const bool huge = block.page_size_bytes() != kSmallPageBytes;
  if (block.backing() == RamBacking::kMemfd && !huge) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("Memory region ", block.name(),
                                                    " is not compatible with cpr-luo: it is of kind ",
                                                    RamBackingName(block.backing()), huge ? " with huge pages" : "",
                                                    ", and Live Update keeps memfds without huge pages only"));
}

absl::StatusOr<std::unique_ptr<Outgoing>> CreateLuoOutgoing(LuoOutgoingOptions options, OutgoingVm* vm) {
  CPR_ASSIGN_OR_RETURN(Poller poller, Poller::Create());
  poller.SetDeadline(absl::ZeroDuration());  // readable for ever: this mode waits for nobody
  return std::make_unique<LuoOutgoing>(std::move(options), vm, std::move(poller));
}

}  // namespace cpr
