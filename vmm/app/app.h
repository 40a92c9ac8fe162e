#ifndef VMM_APP_APP_H_
#define VMM_APP_APP_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/kvm/system.h"
#include "libcpr/modes/exec.h"
#include "libcpr/modes/vm.h"
#include "vmm/app/event_outbox.h"
#include "vmm/app/migration_driver.h"
#include "vmm/event_loop/event_loop.h"
#include "vmm/machine/machine.h"
#include "vmm/monitor/monitor_server.h"
#include "vmm/monitor/target.h"
#include "vmm/options/options.h"

namespace cpr {

// The VMM as its user sees it: a machine (or the wait for one), its monitors, its handovers, and the state that all of
// it is in. Must be made, used and destroyed on one thread, which runs the event loop.
class App final : public MonitorTarget {
 public:
  struct Setup {
    Options options;
    std::vector<std::string> argv;         // all words, for a cpr-exec to come back with
    std::unique_ptr<ExecHandoff> handoff;  // of the program before, by cpr-exec; may be null
    PhaseObserver phase_observer;          // may be null
    std::vector<SectionSupport> reads;     // what this program claims to read: SupportedSections()
  };
  // Builds the machine and starts it, or begins to wait for one. On an error with a handoff the program before gets its
  // guest back, and this does not return.
  static absl::StatusOr<std::unique_ptr<App>> Create(Setup setup);
  ~App() override;

  // The sections that this program reads.
  static std::vector<SectionSupport> SupportedSections();

  // Serves guest and user until the end; the program's exit code.
  int Run();

  // MonitorTarget
  RunState run_state() const override { return run_state_; }
  std::string name() const override;
  std::string uuid() const override;
  std::vector<CpuInfo> Cpus() const override;
  std::vector<ChardevInfo> Chardevs() const override;
  absl::Status Stop() override;
  absl::Status Cont() override;
  absl::Status SystemReset() override;
  absl::Status SystemPowerdown() override;
  absl::Status SystemWakeup() override;
  void Quit() override;
  MigrationSettings& migration_settings() override { return settings_; }
  MigrationInfo migration_info() const override;
  absl::Status Migrate(const Channels& channels) override;
  absl::Status MigrateIncoming(const Channels& channels) override;
  absl::Status MigrateCancel() override { return migration_->Cancel(); }
  std::vector<CprReadiness> Readiness() override;
  void AdoptFd(absl::string_view name, UniqueFd fd) override { migration_->AdoptFd(name, std::move(fd)); }

 private:
  class Leaving;   // app_handover.h
  class Arriving;  // app_handover.h

  explicit App(Setup setup);
  absl::Status Start();
  absl::Status StartMachine();
  absl::Status StartWaiting();
  absl::Status EnterSandboxBeforeGuest();
  // kFailedPrecondition: `main` is a command, and -sandbox denies that.
  absl::Status CheckSpawn(const Address& main) const;
  absl::Status WatchSignals();
  MigrationDriver::Hooks DriverHooks();

  void SetRunState(RunState state);
  bool HandingOver() const;
  void Broadcast(MonitorEvent event);
  void BroadcastShutdown(bool by_guest, const std::string& reason);
  // The guest runs here from now on, or stays paused as it was.
  void OnArrived();
  void OnIncomingFailed(const absl::Status& why);
  // Waits for the next try. `words_count`: the command line's words must not differ from what arrives.
  absl::Status AwaitAnother(bool words_count);
  void OnGuestEvent(GuestEvent event, const std::string& text);
  absl::Status ResetMachine(bool by_guest, const std::string& reason);
  absl::Status RequireMachine() const;
  // Out of the state file that it was saved to.
  absl::Status ReclaimGuest();
  void Say(const std::string& line) const;

  Setup setup_;
  std::unique_ptr<EventLoop> loop_;
  std::optional<kvm::System> system_;
  MigrationSettings settings_;
  std::unique_ptr<Machine> machine_;  // null: the guest has not come yet
  std::unique_ptr<Arriving> arriving_;
  std::unique_ptr<Leaving> leaving_;
  std::unique_ptr<MigrationDriver> migration_;
  std::unique_ptr<MonitorServer> monitors_;
  std::unique_ptr<EventOutbox> events_;
  UniqueFd signals_;
  RunState run_state_ = RunState::kUnspecified;
  int exit_code_ = 0;
};

}  // namespace cpr

#endif  // VMM_APP_APP_H_
