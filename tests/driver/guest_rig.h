#ifndef TESTS_DRIVER_GUEST_RIG_H_
#define TESTS_DRIVER_GUEST_RIG_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/testing/temp_folder.h"
#include "tests/driver/handover.h"
#include "tests/driver/vmm.h"
#include "tests/guest/watch/beat_watcher.h"
#include "tests/guest/watch/guest_view.h"

namespace cpr {

struct GuestRigOptions {
  std::string vmm;     // empty: vmm/cpr-vmm of this build
  std::string kernel;  // empty: tests/guest/payload.elf of this build
  int vcpus = 1;
  int ram_mib = 512;
  std::string guest_words = "quiet";  // more of the guest's command line: "touch=1024"
  bool kernel_irqchip = false;
  std::string serial;               // empty: file:serial.log in folder()
  std::vector<std::string> more;    // words for every cpr-vmm that is started
  std::vector<std::string> prefix;  // before the first cpr-vmm: "env", "CPR_FAULT=save:kill"
};

// The self-checking guest in a cpr-vmm of its own, with all that it needs in a folder of its own, and what carries it
// from one VMM to the next as a user would: by the command line and QMP. Everything is killed and removed at the end.
// Thread-compatible.
class GuestRig {
 public:
  // Boots the guest and waits until it checks itself. CPR_RIG_WORDS and CPR_RIG_GUEST_WORDS in the environment,
  // separated by spaces, come after the options' `more` and `guest_words`: a scenario of the testbed gives it a device
  // of its host.
  static absl::StatusOr<std::unique_ptr<GuestRig>> Start(GuestRigOptions options);

  // One handover, measured; from then on vmm() is the new one. An error: it did not come off. What the guest says of it
  // is in the result's verdict. A guest that its user has paused must be paused afterwards, too; then no pause is
  // measured and no verdict asked for.
  absl::StatusOr<Handover> HandOver(Mode mode);

  Vmm& vmm() { return *vmm_; }
  const GuestView& view() const { return *view_; }
  const std::string& folder() const { return folder_.path(); }
  std::string File(const std::string& name) const { return folder_.File(name); }
  const std::string& ram_path() const { return ram_path_; }

  // The parts that HandOver is made of, for those who disturb one.

  // The words for a cpr-vmm with its QMP socket at `qmp_path`, without -incoming.
  std::vector<std::string> Words(const std::string& qmp_path) const;
  // A name for the next socket of this kind ("qmp") in the folder.
  std::string NextName(const std::string& kind);
  // Starts another cpr-vmm for this guest with `incoming` after the words; `prefix` goes before ("env", "CPR_FAULT=x").
  absl::StatusOr<Vmm> StartAnother(const std::vector<std::string>& incoming,
                                   const std::vector<std::string>& prefix = {});
  // -incoming words of a new VMM for cpr-transfer with these channels.
  static std::vector<std::string> TransferWords(const std::string& main_uri, const std::string& cpr_path);
  // The command for cpr-exec: the present VMM's own words and -incoming `uri`.
  std::vector<std::string> ExecCommand(const std::string& uri) const;
  // `vmm` has the guest from now on; the one before is returned.
  Vmm Replace(Vmm vmm);

 private:
  explicit GuestRig(GuestRigOptions options);
  absl::Status Boot();
  absl::Status Transfer(Handover& handover);
  absl::Status Exec(Handover& handover);
  absl::Status Reboot(Handover& handover);
  void BeginWatch();
  absl::Status EndWatch(Handover& handover);

  const GuestRigOptions options_;
  const testing::TempFolder folder_;
  const testing::TempFolder ram_folder_;
  const std::string ram_path_;
  int names_ = 0;
  std::optional<GuestView> view_;
  std::optional<BeatWatcher> watcher_;
  int64_t migrated_at_ns_ = 0;
  std::string run_state_;  // of the guest before and after: "running" or "paused"
  std::optional<Vmm> vmm_;
};

}  // namespace cpr

#endif  // TESTS_DRIVER_GUEST_RIG_H_
