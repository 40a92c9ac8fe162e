#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
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

absl::StatusOr<v1::LuoState> LuoStateOf(const ContainerReader& reader) {
  const ContainerReader::View* view = reader.Find(kLuoSection, 0);
  if (view == nullptr) return absl::DataLossError(absl::StrCat("no section '", kLuoSection, "'"));
  CPR_ASSIGN_OR_RETURN(v1::LuoState state, DecodeProto<v1::LuoState>(view->payload, view->info.version, kOwnVersion));
  CPR_RETURN_IF_ERROR(Annotate(ValidateFdManifest(state.manifest(), static_cast<size_t>(state.tokens_size())),
                               absl::StrCat("section '", kLuoSection, "'")));
  return state;
}

absl::StatusOr<FdTable> RetrieveFds(LiveUpdateSession& session, const v1::LuoState& state) {
  std::vector<UniqueFd> fds;
  for (const uint64_t token : state.tokens()) {
    CPR_ASSIGN_OR_RETURN(UniqueFd fd, session.RetrieveFd(token));
    fds.push_back(std::move(fd));
  }
  return FdTable::FromManifest(state.manifest(), std::move(fds));
}

class LuoIncoming : public Incoming {
 public:
  LuoIncoming(LuoIncomingOptions options, IncomingVm* vm, Poller poller)
      : Incoming(Mode::kLuo, vm, std::move(options.observer), std::move(poller)),
        find_session_(std::move(options.session)) {}

 private:
  absl::StatusOr<Next> Step() override;
  // There is nobody to tell, and the session keeps everything for another try.
  void Drop(const absl::Status&) override {}

  absl::Status Resume(LiveUpdateSession& session);

  const std::function<absl::StatusOr<LiveUpdateSession*>()> find_session_;
};

absl::StatusOr<Incoming::Next> LuoIncoming::Step() {
  Enter(Phase::kCheck);
  CPR_ASSIGN_OR_RETURN(LiveUpdateSession * session, find_session_());
  CPR_RETURN_IF_ERROR(Annotate(Resume(*session), absl::StrCat("luo:", session->name())));
  // The guest runs: what the kernel makes of the session now is nobody's concern.
  session->Finish().IgnoreError();
  return Next::kDone;
}

absl::Status LuoIncoming::Resume(LiveUpdateSession& session) {
  CPR_ASSIGN_OR_RETURN(const UniqueFd state_fd, session.RetrieveFd(kLuoStateToken));
  CPR_ASSIGN_OR_RETURN(const std::string bytes, ReadContainer(state_fd.get()));
  CPR_ASSIGN_OR_RETURN(const ContainerReader reader, ContainerReader::Parse(bytes));
  CPR_RETURN_IF_ERROR(CheckSections(reader));
  CPR_ASSIGN_OR_RETURN(const v1::LuoState state, LuoStateOf(reader));
  CPR_ASSIGN_OR_RETURN(ownership_, Ownership::Map(state_fd.get(), kOwnershipOffsetBytes, /*sealed=*/false));
  CPR_RETURN_IF_ERROR(CheckOffered(*ownership_));
  Enter(Phase::kPrepare);
  CPR_ASSIGN_OR_RETURN(FdTable table, RetrieveFds(session, state));
  // "cpr/luo" has been read above; its load has nothing left to do.
  std::vector<Section> also;
  also.push_back(LoadOnly(OwnSectionInfo(kLuoSection, Stage::kEarly),
                          [](absl::string_view, uint32_t) { return absl::OkStatus(); }));
  CPR_RETURN_IF_ERROR(Build(reader, std::move(table), std::move(also)));
  CPR_RETURN_IF_ERROR(Restore(reader));
  return TakeAndRun();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Incoming>> CreateLuoIncoming(LuoIncomingOptions options, IncomingVm* vm) {
  CPR_ASSIGN_OR_RETURN(Poller poller, Poller::Create());
  poller.SetDeadline(absl::ZeroDuration());  // readable for ever: this mode waits for nobody
  return std::make_unique<LuoIncoming>(std::move(options), vm, std::move(poller));
}

}  // namespace cpr
