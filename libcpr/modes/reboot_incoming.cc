#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/own_sections.h"
#include "libcpr/modes/reboot.h"
#include "libcpr/modes/state_memfd.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/proto_payload.h"

namespace cpr {
namespace {

std::vector<SectionInfo> InfosOf(const ContainerReader& reader) {
  std::vector<SectionInfo> infos;
  for (const ContainerReader::View& view : reader.sections()) infos.push_back(view.info);
  return infos;
}

class RebootIncoming : public Incoming {
 public:
  RebootIncoming(RebootIncomingOptions options, IncomingVm* vm, Poller poller)
      : Incoming(Mode::kReboot, vm, std::move(options.observer), std::move(poller)), options_(std::move(options)) {}

  absl::Status Arm();

 private:
  // All of it is there from the start: one step.
  absl::StatusOr<Next> Step() override;
  void Drop(const absl::Status&) override {}

  absl::Status CheckUnused();
  absl::Status CheckRamAgreed(const ContainerReader& reader) const;

  const RebootIncomingOptions options_;
  UniqueFd always_;
};

absl::Status RebootIncoming::Arm() {
  always_.Reset(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!always_.ok()) return ErrnoStatus(errno, "eventfd");
  return poller_.Watch(always_.get(), EPOLLIN);
}

absl::StatusOr<Incoming::Next> RebootIncoming::Step() {
  Enter(Phase::kCheck);
  CPR_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(options_.path, O_RDWR));
  absl::StatusOr<std::string> state = ReadContainer(file.get(), options_.offset_bytes);
  if (!state.ok()) return Annotate(state.status(), options_.path);
  const absl::StatusOr<ContainerReader> reader = ContainerReader::Parse(*state);
  if (!reader.ok()) return Annotate(reader.status(), options_.path);
  CPR_RETURN_IF_ERROR(Annotate(CheckSections(InfosOf(*reader)), options_.path));
  CPR_RETURN_IF_ERROR(CheckRamAgreed(*reader));
  CPR_ASSIGN_OR_RETURN(ownership_, Ownership::Map(file.get(), options_.offset_bytes + kOwnershipOffsetBytes, false));
  CPR_RETURN_IF_ERROR(CheckUnused());
  Enter(Phase::kPrepare);
  CPR_RETURN_IF_ERROR(Annotate(Build(*reader, FdTable()), options_.path));
  CPR_RETURN_IF_ERROR(Annotate(Restore(*reader, file.get()), options_.path));
  CPR_RETURN_IF_ERROR(TakeAndRun());
  // The mark should outlive a power failure, but the guest need not wait for it, nor stop if the disk refuses.
  ::fdatasync(file.get());
  return Next::kDone;
}

absl::Status RebootIncoming::CheckUnused() {
  const absl::Time when = absl::FromUnixNanos(ownership_->changed_at_realtime_ns());
  const std::string at = absl::FormatTime(when, absl::LocalTimeZone());
  switch (ownership_->owner()) {
    case Owner::kOffered:
      return absl::OkStatus();
    case Owner::kNew:
      return absl::FailedPreconditionError(absl::StrCat(
          options_.path, ": the guest was resumed from this state already, at ", at, "; its RAM has moved on since"));
    case Owner::kOld:
      return absl::FailedPreconditionError(
          absl::StrCat(options_.path, ": the old VMM took its guest back, at ", at, "; its RAM has moved on since"));
    case Owner::kReturned:
    case Owner::kUnspecified:
      break;
  }
  return absl::DataLossError(
      absl::StrCat(options_.path, ": the ownership word says nothing: the state was never finished"));
}

absl::Status RebootIncoming::CheckRamAgreed(const ContainerReader& reader) const {
  const ContainerReader::View* view = reader.Find(kRamSection, 0);
  if (view == nullptr) return absl::DataLossError(absl::StrCat(options_.path, ": no section '", kRamSection, "'"));
  CPR_ASSIGN_OR_RETURN(const v1::RamState ram,
                       DecodeProto<v1::RamState>(view->payload, view->info.version, kOwnVersion));
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
