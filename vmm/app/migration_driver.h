#ifndef VMM_APP_MIGRATION_DRIVER_H_
#define VMM_APP_MIGRATION_DRIVER_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/modes/exec.h"
#include "libcpr/modes/incoming.h"
#include "libcpr/modes/outgoing.h"
#include "libcpr/modes/transfer.h"
#include "libcpr/modes/vm.h"
#include "libcpr/preserve/live_update.h"
#include "vmm/app/named_fds.h"
#include "vmm/event_loop/event_loop.h"
#include "vmm/monitor/migration_settings.h"
#include "vmm/monitor/target.h"
#include "vmm/options/channel.h"

namespace cpr {

// Drives the handovers of one VM, out or in, on the event loop, and keeps what query-migrate tells of them.
// Must be used on the event loop's thread.
class MigrationDriver {
 public:
  struct Hooks {
    std::function<void(MigrationStatus)> status_changed;
    std::function<void()> gone;                       // the guest is elsewhere, or in its state file
    std::function<void()> arrived;                    // the guest runs here
    std::function<void(const absl::Status&)> failed;  // incoming only: nothing has arrived and nothing will
    std::function<void(const std::string&)> log;      // a line for the user, such as a peer that was refused
    std::function<std::vector<int>()> monitor_fds;    // what the keeper of a cpr-exec must not hold; may be null
    PhaseObserver phase;                              // may be null; called when a phase begins, out or in
  };

  // All but `hooks` are lent. `own_argv` is this program's command line, for a cpr-exec to come back with.
  MigrationDriver(EventLoop* loop, const MigrationSettings* settings, std::vector<std::string> own_argv, Hooks hooks);
  ~MigrationDriver();

  // Begins a handover of `vm` to `channels`, already checked against the settings. The rest happens on the loop.
  // Blockers are refused here, in their own words.
  absl::Status StartOutgoing(const Channels& channels, OutgoingVm* vm);

  // Waits for a cpr-transfer at `cpr`; its main channel is given now or by ListenMain.
  absl::Status AwaitTransfer(const Address& cpr, const std::optional<Address>& main, IncomingVm* vm);
  // What is known of the RAM in a cpr-reboot's state (RebootIncomingOptions).
  struct RebootRam {
    bool ignore_shared = false;
    bool map_private = false;
  };
  // migrate-incoming: `main` is where the state of a cpr-transfer comes from, or the file, command or stream of a
  // cpr-reboot, or the session of a cpr-luo.
  absl::Status StartIncoming(const Address& main, RebootRam ram, IncomingVm* vm);
  absl::Status StartExecIncoming(std::unique_ptr<ExecHandoff> handoff, IncomingVm* vm);

  // Calls an outgoing handover off, or a cpr-reboot's state that is being read. OK also if there is none.
  absl::Status Cancel();
  // The user wants the guest back that lies in a state file.
  absl::Status Reclaim();

  // Keeps `fd` for addresses "fd:`name`".
  void AdoptFd(absl::string_view name, UniqueFd fd) { fds_.Adopt(name, std::move(fd)); }

  // Whether a Live Update session is kept here whose guest has not arrived: it would be lost with this program.
  bool keeps_session() const { return !sessions_.empty(); }

  bool outgoing_active() const { return outgoing_ != nullptr && !IsFinal(info_.status); }
  MigrationInfo info() const;
  Mode mode() const { return mode_; }

 private:
  absl::StatusOr<std::unique_ptr<Outgoing>> MakeOutgoing(const Channels& channels, OutgoingVm* vm);
  absl::StatusOr<std::unique_ptr<Outgoing>> MakeTransfer(const Channels& channels, OutgoingVm* vm);
  absl::StatusOr<std::unique_ptr<Outgoing>> MakeReboot(const Address& main, OutgoingVm* vm);
  absl::StatusOr<std::unique_ptr<Outgoing>> MakeExec(const Address& main, OutgoingVm* vm);
  absl::Status StartMain(const Address& main);
  absl::Status StartLuo(const std::string& name, IncomingVm* vm);
  // Of the kernel before, or kept from an earlier try. kNotFound: there is none. Lent.
  absl::StatusOr<LiveUpdateSession*> FindSession(const std::string& name);
  absl::Status Watch(int fd, void (MigrationDriver::*advance)());
  void AdvanceOutgoing();
  void AdvanceIncoming();
  void CancelIncoming();
  void DropIncoming();
  void DropOutgoing();
  void WatchKeeper(pid_t pid);
  void Begin(Mode mode);
  void OnPhase(Phase phase);
  void SetStatus(MigrationStatus status);
  void Finish(const absl::Status& status);

  EventLoop* const loop_;
  const MigrationSettings* const settings_;
  const std::vector<std::string> own_argv_;
  const Hooks hooks_;
  Mode mode_ = Mode::kUnspecified;
  MigrationInfo info_;
  int64_t began_ns_ = 0;
  int64_t ended_ns_ = 0;
  std::unique_ptr<Outgoing> outgoing_;
  std::unique_ptr<Incoming> incoming_;
  TransferIncoming* transfer_incoming_ = nullptr;  // incoming_, if it is one
  ExecIncoming* exec_incoming_ = nullptr;          // incoming_, if it is one
  std::string cpr_path_;                           // where a transfer is awaited
  std::optional<std::string> returned_because_;
  UniqueFd keeper_pidfd_;
  NamedFds fds_;
  std::map<std::string, LiveUpdateSession> sessions_;  // retrieved and kept whatever fails, by name
  std::string session_;                                // that the guest comes from
};

}  // namespace cpr

#endif  // VMM_APP_MIGRATION_DRIVER_H_
