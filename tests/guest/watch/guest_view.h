#ifndef TESTS_GUEST_WATCH_GUEST_VIEW_H_
#define TESTS_GUEST_WATCH_GUEST_VIEW_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libcpr/base/mapping.h"
#include "tests/guest/guest_abi.h"

namespace cpr {

// The self-checking guest seen from outside: the page in its RAM (a file that the VMM shares) where it shows what it is
// at. Needs nothing of the VMM. Thread-compatible.
class GuestView {
 public:
  // `ram_path` is the file under the guest's RAM; gpa 0 is at its start.
  static absl::StatusOr<GuestView> Open(const std::string& ram_path);

  volatile cpr_guest_abi& abi() const { return *reinterpret_cast<volatile cpr_guest_abi*>(mapping_.data()); }
  uint64_t beats(unsigned vcpu = 0) const { return abi().vcpu[vcpu].beats; }

  // Waits until every vCPU is in its checking loop.
  absl::Status AwaitRunning(absl::Duration timeout) const;
  // Waits until the beat of every vCPU has moved on.
  absl::Status AwaitBeats(absl::Duration timeout) const;
  // Waits until what the guest copies through a device (`edu=`) has been right once more, begun after this call; at
  // once if it copies nothing.
  absl::Status AwaitCopy(absl::Duration timeout) const;
  // Has the guest check everything that it holds, now. kDataLoss with the guest's words if something was lost.
  absl::Status Verify(absl::Duration timeout) const;

 private:
  explicit GuestView(Mapping mapping) : mapping_(std::move(mapping)) {}
  Mapping mapping_;
};

}  // namespace cpr

#endif  // TESTS_GUEST_WATCH_GUEST_VIEW_H_
