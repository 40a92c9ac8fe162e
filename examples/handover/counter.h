#ifndef EXAMPLES_HANDOVER_COUNTER_H_
#define EXAMPLES_HANDOVER_COUNTER_H_

#include <string>
#include <vector>

#include "libcpr/base/mapping.h"
#include "libcpr/modes/vm.h"

// The smallest guest there is: RAM with a counter in it, and a thread's worth of state, its step. All that an embedder
// has to implement is here.
class Counter : public cpr::OutgoingVm, public cpr::IncomingVm {
 public:
  // A guest that begins to count, by `step`.
  absl::Status Start(uint64_t step);
  // Counts once, if it runs here.
  void Tick();
  bool running() const { return running_; }
  uint64_t count() const { return *reinterpret_cast<const uint64_t*>(ram_.data()); }
  uint64_t step() const { return step_; }

  // Going out.
  std::vector<std::string> Blockers(cpr::Mode) override { return {}; }
  absl::Status Describe(cpr::Mode, cpr::Inventory& inventory) override;
  absl::Status Pause() override;
  void Resume() override { running_ = true; }
  void Release() override {}

  // Coming in.
  std::vector<cpr::SectionSupport> Supported() override { return {{"counter", 1}}; }
  absl::Status RegisterEarly(cpr::SectionRegistry&) override { return absl::OkStatus(); }
  absl::Status Build(cpr::Inventory& arrived) override;
  void Run() override { running_ = true; }

 private:
  static constexpr uint64_t kRamBytes = 4096;
  cpr::Section CounterSection();

  std::vector<cpr::RamBlock> blocks_;
  cpr::Mapping ram_;
  uint64_t step_ = 0;
  bool running_ = false;
};

#endif  // EXAMPLES_HANDOVER_COUNTER_H_
