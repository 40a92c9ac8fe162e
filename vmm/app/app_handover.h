#ifndef VMM_APP_APP_HANDOVER_H_
#define VMM_APP_APP_HANDOVER_H_

#include <string>
#include <vector>

#include "vmm/app/app.h"
#include "vmm/machine/incoming_vm.h"
#include "vmm/machine/outgoing_vm.h"
#include "vmm/options/description.h"

// The app's part in a handover, beside the machine's: what its user sees meanwhile, and the state that the guest is in
// to its user. For the app's own sources alone.

namespace cpr {

// The machine on its way out. `app` must outlive it.
class App::Leaving final : public MachineOutgoing {
 public:
  explicit Leaving(App* app) : MachineOutgoing(app->machine_.get()), app_(app) {}

  std::vector<std::string> Blockers(Mode mode) override;
  absl::Status Describe(Mode mode, Inventory& inventory) override;
  absl::Status Pause() override;
  void Resume() override;
  // In which the guest was before the handover.
  RunState run_state_before() const { return before_; }

 private:
  App* const app_;
  RunState before_ = RunState::kUnspecified;  // the handover
};

// The machine on its way in. `app` must outlive it.
class App::Arriving final : public MachineIncoming {
 public:
  // `given`: the words that count.
  Arriving(App* app, MachineDescription given);

  std::vector<SectionSupport> Supported() override { return app_->setup_.reads; }
  absl::Status Build(Inventory& arrived) override;
  void Run() override;
  // In which the guest has arrived.
  RunState run_state() const { return run_state_; }

 private:
  App* const app_;
  const bool returned_;  // to this program, which had it before
  RunState run_state_ = RunState::kUnspecified;
};

}  // namespace cpr

#endif  // VMM_APP_APP_HANDOVER_H_
