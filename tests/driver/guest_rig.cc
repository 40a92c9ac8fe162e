#include "tests/driver/guest_rig.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/phase.h"
#include "tests/driver/programs.h"

namespace cpr {
namespace {

constexpr absl::Duration kBootTimeout = absl::Minutes(3);
constexpr absl::Duration kBeatTimeout = absl::Seconds(20);

absl::Status MakeFile(const std::string& path, uint64_t size_bytes) {
  CPR_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(path, O_RDWR | O_CREAT | O_EXCL));
  if (::ftruncate(file.get(), static_cast<off_t>(size_bytes)) != 0) return ErrnoStatus(errno, path);
  return absl::OkStatus();
}

void Append(std::vector<std::string>& words, const std::vector<std::string>& more) {
  words.insert(words.end(), more.begin(), more.end());
}

absl::string_view Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? absl::string_view() : value;
}

void AddWordsFromEnvironment(GuestRigOptions& options) {
  const std::vector<std::string> words = absl::StrSplit(Environment("CPR_RIG_WORDS"), ' ', absl::SkipEmpty());
  Append(options.more, words);
  absl::StrAppend(&options.guest_words, " ", Environment("CPR_RIG_GUEST_WORDS"));
}

}  // namespace

GuestRig::GuestRig(GuestRigOptions options)
    : options_(std::move(options)), ram_folder_("/dev/shm"), ram_path_(ram_folder_.File("ram")) {}

absl::StatusOr<std::unique_ptr<GuestRig>> GuestRig::Start(GuestRigOptions options) {
  if (options.vmm.empty()) {
    CPR_ASSIGN_OR_RETURN(options.vmm, FindBuilt("vmm/cpr-vmm"));
  }
  if (options.kernel.empty()) {
    CPR_ASSIGN_OR_RETURN(options.kernel, FindBuilt("tests/guest/payload.elf"));
  }
  AddWordsFromEnvironment(options);
  auto rig = std::unique_ptr<GuestRig>(new GuestRig(std::move(options)));
  CPR_RETURN_IF_ERROR(rig->Boot());
  return rig;
}

absl::Status GuestRig::Boot() {
  CPR_RETURN_IF_ERROR(MakeFile(ram_path_, uint64_t{static_cast<unsigned>(options_.ram_mib)} << 20));
  CPR_ASSIGN_OR_RETURN(view_, GuestView::Open(ram_path_));
  CPR_ASSIGN_OR_RETURN(vmm_, StartAnother({}, options_.prefix));
  const absl::Status running = view_->AwaitRunning(kBootTimeout);
  if (!running.ok()) return Annotate(running, absl::StrCat("boot (", vmm_->Log(), ")"));
  return view_->AwaitBeats(kBeatTimeout);
}

std::vector<std::string> GuestRig::Words(const std::string& qmp_path) const {
  const std::string serial = options_.serial.empty() ? absl::StrCat("file:", File("serial.log")) : options_.serial;
  const std::string machine =
      absl::StrCat("q35,memory-backend=ram0,aux-ram-share=on", options_.kernel_irqchip ? ",kernel-irqchip=on" : "");
  const std::string size = absl::StrCat(options_.ram_mib, "M");
  const std::string backend =
      absl::StrCat("memory-backend-file,id=ram0,size=", size, ",mem-path=", ram_path_, ",share=on");
  std::vector<std::string> words = {"-accel",      "kvm",
                                    "-cpu",        "host",
                                    "-machine",    machine,
                                    "-smp",        absl::StrCat(options_.vcpus),
                                    "-object",     backend,
                                    "-m",          size,
                                    "-nodefaults", "-no-user-config",
                                    "-display",    "none",
                                    "-serial",     serial,
                                    "-qmp",        absl::StrCat("unix:", qmp_path, ",server=on,wait=off"),
                                    "-kernel",     options_.kernel,
                                    "-append",     absl::StrCat("cpus=", options_.vcpus, " ", options_.guest_words)};
  Append(words, options_.more);
  return words;
}

std::string GuestRig::NextName(const std::string& kind) { return File(absl::StrCat(kind, ".", ++names_)); }

absl::StatusOr<Vmm> GuestRig::StartAnother(const std::vector<std::string>& incoming,
                                           const std::vector<std::string>& prefix) {
  const std::string qmp_path = NextName("qmp");
  std::vector<std::string> command = prefix;
  command.push_back(options_.vmm);
  Append(command, Words(qmp_path));
  Append(command, incoming);
  return Vmm::Start(command, qmp_path, absl::StrCat(qmp_path, ".log"));
}

std::vector<std::string> GuestRig::TransferWords(const std::string& main_uri, const std::string& cpr_path) {
  const JsonValue address =
      JsonMembers({{"transport", JsonText("socket")}, {"type", JsonText("unix")}, {"path", JsonText(cpr_path)}});
  const JsonValue channel = JsonMembers({{"channel-type", JsonText("cpr")}, {"addr", address}});
  return {"-incoming", main_uri, "-incoming", PrintJson(channel)};
}

std::vector<std::string> GuestRig::ExecCommand(const std::string& uri) const {
  std::vector<std::string> command = {options_.vmm};
  Append(command, Words(vmm_->qmp_path()));
  Append(command, {"-incoming", uri});
  return command;
}

Vmm GuestRig::Replace(Vmm vmm) {
  Vmm before = *std::move(vmm_);
  vmm_ = std::move(vmm);
  return before;
}

absl::StatusOr<Handover> GuestRig::HandOver(Mode mode) {
  Handover handover;
  handover.mode = mode;
  handover.pid_before = PeerPid(vmm_->qmp().fd());
  CPR_ASSIGN_OR_RETURN(run_state_, vmm_->RunState());
  const absl::Status done = mode == Mode::kTransfer ? Transfer(handover)
                            : mode == Mode::kExec   ? Exec(handover)
                                                    : Reboot(handover);
  if (!done.ok()) {
    watcher_.reset();
    return Annotate(done, absl::StrCat(ModeName(mode), " (", vmm_->Log(), ")"));
  }
  handover.pid_after = PeerPid(vmm_->qmp().fd());
  if (run_state_ == "running") handover.verdict = view_->Verify(kBeatTimeout);
  return handover;
}

void GuestRig::BeginWatch() {
  if (run_state_ == "running") watcher_.emplace(&*view_);
  migrated_at_ns_ = MonotonicNs();
}

absl::Status GuestRig::EndWatch(Handover& handover) {
  if (!watcher_.has_value()) return absl::OkStatus();
  const absl::Status beats = view_->AwaitBeats(kBeatTimeout);
  handover.total_ns = MonotonicNs() - migrated_at_ns_;
  handover.guest_pause_ns = watcher_->Stop();
  watcher_.reset();
  return beats;
}

absl::Status GuestRig::Transfer(Handover& handover) {
  const std::string main_uri = absl::StrCat("unix:", NextName("main"));
  const std::string cpr_path = NextName("cpr");
  CPR_ASSIGN_OR_RETURN(Vmm next, StartAnother(TransferWords(main_uri, cpr_path)));
  CPR_RETURN_IF_ERROR(next.qmp().AwaitStatus("inmigrate"));
  CPR_RETURN_IF_ERROR(vmm_->SetMode(Mode::kTransfer));
  BeginWatch();
  CPR_RETURN_IF_ERROR(vmm_->MigrateChannels(main_uri, cpr_path));
  CPR_RETURN_IF_ERROR(vmm_->qmp().AwaitMigration());
  CPR_RETURN_IF_ERROR(next.qmp().AwaitStatus(run_state_));
  CPR_RETURN_IF_ERROR(EndWatch(handover));
  Vmm before = Replace(std::move(next));
  CPR_RETURN_IF_ERROR(before.qmp().AwaitStatus("postmigrate"));
  CPR_ASSIGN_OR_RETURN(handover.phases_ns, before.PhaseTimes());
  return before.Quit().status();
}

absl::Status GuestRig::Exec(Handover& handover) {
  CPR_RETURN_IF_ERROR(vmm_->SetMode(Mode::kExec));
  CPR_RETURN_IF_ERROR(vmm_->SetExecCommand(ExecCommand("memfd:")));
  BeginWatch();
  CPR_RETURN_IF_ERROR(vmm_->Migrate("memfd:"));
  CPR_RETURN_IF_ERROR(vmm_->AwaitExec());
  CPR_RETURN_IF_ERROR(vmm_->qmp().AwaitStatus(run_state_));
  CPR_RETURN_IF_ERROR(EndWatch(handover));
  CPR_ASSIGN_OR_RETURN(handover.phases_ns, vmm_->PhaseTimes());
  return absl::OkStatus();
}

absl::Status GuestRig::Reboot(Handover& handover) {
  const std::string state = absl::StrCat("file:", File("vm.state"));
  CPR_RETURN_IF_ERROR(vmm_->SetMode(Mode::kReboot));
  CPR_RETURN_IF_ERROR(vmm_->SetIgnoreShared());
  BeginWatch();
  CPR_RETURN_IF_ERROR(vmm_->Migrate(state));
  CPR_RETURN_IF_ERROR(vmm_->qmp().AwaitStatus("postmigrate"));
  CPR_RETURN_IF_ERROR(vmm_->qmp().AwaitMigration());
  CPR_RETURN_IF_ERROR(vmm_->Quit().status());
  CPR_ASSIGN_OR_RETURN(vmm_, StartAnother({"-incoming", "defer"}));
  CPR_RETURN_IF_ERROR(vmm_->SetMode(Mode::kReboot));
  CPR_RETURN_IF_ERROR(vmm_->SetIgnoreShared());
  const JsonValue uri = JsonMembers({{"uri", JsonText(state)}});
  CPR_RETURN_IF_ERROR(vmm_->qmp().Execute("migrate-incoming", uri).status());
  CPR_RETURN_IF_ERROR(vmm_->qmp().AwaitStatus(run_state_));
  CPR_RETURN_IF_ERROR(EndWatch(handover));
  CPR_ASSIGN_OR_RETURN(handover.phases_ns, vmm_->PhaseTimes());
  return absl::OkStatus();
}

}  // namespace cpr
