#ifndef LIBCPR_TESTING_TOY_VM_H_
#define LIBCPR_TESTING_TOY_VM_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "libcpr/base/mapping.h"
#include "libcpr/modes/vm.h"

namespace cpr::testing {

// A guest without a hypervisor: RAM in a memfd (or a file), a configuration (early), a register (late), an fd. It
// counts what the SDK does with it, and can be made to fail at any call. Thread-compatible.
class ToyVm : public OutgoingVm, public IncomingVm {
 public:
  static constexpr uint64_t kRamBytes = 1 << 20;

  // Makes it a running guest with `config` and `value`, RAM filled with a pattern of `value`.
  // `ram_path`: RAM in this file (shared), or "private": anonymous memory; empty: a memfd.
  absl::Status Start(const std::string& config, uint64_t value, const std::string& ram_path = "");

  // OutgoingVm
  std::vector<std::string> Blockers(Mode) override { return blockers; }
  absl::Status Describe(Mode mode, Inventory& inventory) override;
  absl::Status Pause() override;
  void Resume() override;
  void Release() override;
  // IncomingVm
  std::vector<SectionSupport> Supported() override;
  absl::Status RegisterEarly(SectionRegistry& sections) override;
  absl::Status Build(Inventory& arrived) override;
  void Run() override;

  // True if RAM holds the pattern of `value`.
  bool RamIntact() const;
  // Fills RAM with the pattern of another value, as a guest that works on.
  void Refill(uint64_t new_value) {
    value = new_value;
    FillRam();
  }

  bool running = false;
  int pauses = 0, resumes = 0, releases = 0, runs = 0;
  std::string config;
  uint64_t value = 0;
  std::vector<std::string> blockers;
  // Called with "describe", "pause", "save", "build", "load", "apply"; an error makes that call fail.
  std::function<absl::Status(absl::string_view)> fault;
  // What it writes and reads its late section as.
  uint32_t version = 1, min_reader_version = 1;
  // Beside the RAM: an fd of the guest's, a memfd with the text "payload of the fd".
  UniqueFd extra;

 private:
  absl::Status Check(absl::string_view call) { return fault ? fault(call) : absl::OkStatus(); }
  absl::Status MapRam(const RamBlock& block);
  void FillRam();

  std::vector<RamBlock> blocks_;
  Mapping ram_;
  std::string staged_config_;
  uint64_t staged_value_ = 0;
};

}  // namespace cpr::testing

#endif  // LIBCPR_TESTING_TOY_VM_H_
