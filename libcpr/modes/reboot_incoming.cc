#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <cerrno>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/command.h"
#include "libcpr/modes/own_sections.h"
#include "libcpr/modes/ram_mark.h"
#include "libcpr/modes/reboot.h"
#include "libcpr/modes/state_memfd.h"
#include "libcpr/modes/state_stream.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/proto_payload.h"

namespace cpr {
namespace {

constexpr uintptr_t kPageBytes = 4096;

absl::StatusOr<v1::RamState> RamStateOf(const ContainerReader& reader) {
  const ContainerReader::View* view = reader.Find(kRamSection, 0);
  if (view == nullptr) return absl::DataLossError(absl::StrCat("no section '", kRamSection, "'"));
  return DecodeProto<v1::RamState>(view->payload, view->info.version, kOwnVersion);
}

class RebootIncoming : public Incoming {
 public:
  RebootIncoming(RebootIncomingOptions options, IncomingVm* vm, Poller poller)
      : Incoming(Mode::kReboot, vm, std::move(options.observer), std::move(poller)), options_(std::move(options)) {}

  absl::Status Arm();

 private:
  enum class At { kStart, kRead, kAwaitEnd, kCopy };

  absl::StatusOr<Next> Step() override;
  void Drop(const absl::Status&) override { CloseStream(); }

  // A file is all there from the start: one step. A stream is gathered first.
  absl::StatusOr<Next> Start();
  absl::Status OpenStream();
  absl::StatusOr<Next> ReadStream();
  absl::StatusOr<Next> AwaitEnd();
  void CloseStream();
  // The state lies in `file` (lent).
  absl::StatusOr<Next> Resume(int file, uint64_t offset_bytes);
  absl::StatusOr<Next> Copy();
  absl::StatusOr<Next> Finish();

  absl::Status FindOwnership(const v1::RamState& ram, int file, uint64_t offset_bytes);
  absl::Status CheckRamAgreed(const v1::RamState& ram) const;
  absl::Status ChooseMapping(int file);

  RebootIncomingOptions options_;
  At at_ = At::kStart;
  UniqueFd always_;
  std::unique_ptr<Command> command_;
  std::optional<StateStreamReader> stream_;
  absl::Status read_;  // what became of the stream
};

absl::Status RebootIncoming::Arm() {
  always_.Reset(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!always_.ok()) return ErrnoStatus(errno, "eventfd");
  return poller_.Watch(always_.get(), EPOLLIN);
}

absl::StatusOr<Incoming::Next> RebootIncoming::Step() {
  switch (at_) {
    case At::kStart:
      return Start();
    case At::kRead:
      return ReadStream();
    case At::kAwaitEnd:
      return AwaitEnd();
    case At::kCopy:
      return Copy();
  }
  return absl::InternalError("a step that does not exist");
}

absl::StatusOr<Incoming::Next> RebootIncoming::Start() {
  Enter(Phase::kCheck);
  if (!options_.command.empty() || options_.stream.ok()) {
    CPR_RETURN_IF_ERROR(Annotate(OpenStream(), options_.path));
    at_ = At::kRead;
    return Next::kAgain;
  }
  CPR_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(options_.path, O_RDWR));
  return Resume(file.get(), options_.offset_bytes);
}

absl::Status RebootIncoming::OpenStream() {
  if (!options_.command.empty()) {
    CPR_ASSIGN_OR_RETURN(command_, Command::Start(options_.command, Command::Direction::kGives));
    options_.stream = command_->TakePipe();
  }
  CPR_ASSIGN_OR_RETURN(stream_, StateStreamReader::Create(std::move(options_.stream)));
  // A regular file cannot be polled, and need not be: then the eventfd goes on saying that there is work.
  if (poller_.Watch(stream_->fd(), EPOLLIN).ok()) poller_.Forget(always_.get());
  return absl::OkStatus();
}

void RebootIncoming::CloseStream() {
  if (stream_.has_value()) poller_.Forget(stream_->fd());
  if (command_ != nullptr) poller_.Forget(command_->process_fd());
  stream_.reset();
  command_.reset();
}

absl::StatusOr<Incoming::Next> RebootIncoming::ReadStream() {
  const absl::StatusOr<bool> ended = stream_->Pump();
  if (ended.ok() && !*ended) return Next::kWait;
  read_ = Annotate(ended.status(), options_.path);
  // A state that is cut may be so because its command failed: that has more to say. What is wrong with it otherwise
  // is wrong whatever the command does next.
  if (!read_.ok() && (command_ == nullptr || !stream_->ended())) return read_;
  poller_.Forget(stream_->fd());
  if (command_ != nullptr) CPR_RETURN_IF_ERROR(poller_.Watch(command_->process_fd(), EPOLLIN));
  at_ = At::kAwaitEnd;
  return Next::kAgain;
}

absl::StatusOr<Incoming::Next> RebootIncoming::AwaitEnd() {
  if (command_ != nullptr) {
    const absl::Status result = command_->Result();
    if (absl::IsUnavailable(result)) return Next::kWait;
    poller_.Forget(command_->process_fd());
    CPR_RETURN_IF_ERROR(Annotate(result, options_.path));
  }
  CPR_RETURN_IF_ERROR(read_);
  return Resume(stream_->state_fd(), 0);
}

absl::StatusOr<Incoming::Next> RebootIncoming::Resume(int file, uint64_t offset_bytes) {
  absl::StatusOr<std::string> state = ReadContainer(file, offset_bytes);
  if (!state.ok()) return Annotate(state.status(), options_.path);
  const absl::StatusOr<ContainerReader> reader = ContainerReader::Parse(*state);
  if (!reader.ok()) return Annotate(reader.status(), options_.path);
  CPR_RETURN_IF_ERROR(Annotate(CheckSections(*reader), options_.path));
  const absl::StatusOr<v1::RamState> ram = RamStateOf(*reader);
  if (!ram.ok()) return Annotate(ram.status(), options_.path);
  CPR_RETURN_IF_ERROR(CheckRamAgreed(*ram));
  CPR_RETURN_IF_ERROR(Annotate(FindOwnership(*ram, file, offset_bytes), options_.path));
  CPR_RETURN_IF_ERROR(Annotate(CheckOffered(*ownership_), options_.path));
  CPR_RETURN_IF_ERROR(Annotate(ChooseMapping(file), options_.path));
  Enter(Phase::kPrepare);
  CPR_RETURN_IF_ERROR(Annotate(Build(*reader, FdTable()), options_.path));
  CPR_RETURN_IF_ERROR(Annotate(Load(*reader), options_.path));
  CPR_RETURN_IF_ERROR(Annotate(StartCopy(file, options_.copy), options_.path));
  poller_.Forget(always_.get());
  at_ = At::kCopy;
  return ram_progress().copy_bytes != 0 ? Next::kWait : Next::kAgain;
}

absl::StatusOr<Incoming::Next> RebootIncoming::Copy() {
  const absl::StatusOr<bool> done = AdvanceCopy();
  if (!done.ok()) return Annotate(done.status(), options_.path);
  return *done ? Finish() : Next::kWait;
}

absl::StatusOr<Incoming::Next> RebootIncoming::Finish() {
  CPR_RETURN_IF_ERROR(Annotate(Apply(), options_.path));
  CPR_RETURN_IF_ERROR(TakeAndRun());
  // That the state is used should outlive a power failure, but the guest need not wait for it, nor stop if the disk
  // refuses.
  ::msync(reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(ownership_->word()) & ~(kPageBytes - 1)), kPageBytes,
          MS_SYNC);
  CloseStream();
  return Next::kDone;
}

absl::Status RebootIncoming::FindOwnership(const v1::RamState& ram, int file, uint64_t offset_bytes) {
  CPR_ASSIGN_OR_RETURN(ownership_, Ownership::Map(file, offset_bytes + kOwnershipOffsetBytes, false));
  if (ownership_->owner() != Owner::kOffered) return absl::OkStatus();
  const std::string ram_path = MarkedRamPath(ram);
  if (ram.mark_id().empty()) {
    if (!stream_.has_value() || ram_path.empty()) return absl::OkStatus();
    return absl::FailedPreconditionError(
        "this state was saved to a file, where it is marked when it is used, and a copy of it cannot be: resume it by "
        "file:");
  }
  // It came through a stream, if only once: what counts is the mark beside the RAM.
  if (ram.mark_id().size() != kMarkIdBytes)
    return absl::DataLossError("the id of the mark beside the RAM is not 16 bytes");
  if (ram_path.empty()) return absl::DataLossError("there is an id of a mark, and no RAM that it could lie beside");
  CPR_ASSIGN_OR_RETURN(ownership_, OpenRamMark(ram_path, ram.mark_id()));
  return absl::OkStatus();
}

absl::Status RebootIncoming::ChooseMapping(int file) {
  if (!options_.map_private) return absl::OkStatus();
  // A file that was there before may hold anything where RAM was zero.
  if (stream_.has_value() || options_.offset_bytes != 0) {
    return absl::InvalidArgumentError("RAM can be mapped from a file of its own alone, at offset 0");
  }
  MapCopiedFrom(file);
  return absl::OkStatus();
}

absl::Status RebootIncoming::CheckRamAgreed(const v1::RamState& ram) const {
  for (const v1::RamState::Block& block : ram.blocks()) {
    if (block.copied() || options_.ignore_shared) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(options_.path, ": RAM block '", block.layout().name(),
                     "' was left in place: set capability x-ignore-shared on here, too"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Incoming>> CreateRebootIncoming(RebootIncomingOptions options, IncomingVm* vm) {
  CPR_ASSIGN_OR_RETURN(Poller poller, Poller::Create());
  auto incoming = std::make_unique<RebootIncoming>(std::move(options), vm, std::move(poller));
  CPR_RETURN_IF_ERROR(incoming->Arm());
  return incoming;
}

}  // namespace cpr
