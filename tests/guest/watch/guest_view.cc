#include "tests/guest/watch/guest_view.h"

#include <fcntl.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

constexpr absl::Duration kLookInterval = absl::Microseconds(200);

template <typename Condition>
bool Await(absl::Duration timeout, Condition condition) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(kLookInterval);
  }
  return true;
}

}  // namespace

absl::StatusOr<GuestView> GuestView::Open(const std::string& ram_path) {
  CPR_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(ram_path, O_RDWR));
  CPR_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Create(file.get(), CPR_GUEST_ABI_GPA, sizeof(cpr_guest_abi)));
  return GuestView(std::move(mapping));
}

absl::Status GuestView::AwaitRunning(absl::Duration timeout) const {
  if (Await(timeout, [this] { return abi().magic == CPR_GUEST_MAGIC && abi().state == CPR_GUEST_RUNNING; })) {
    return absl::OkStatus();
  }
  return absl::DeadlineExceededError(
      absl::StrCat("the guest has not begun its checks after ", absl::FormatDuration(timeout)));
}

absl::Status GuestView::AwaitBeats(absl::Duration timeout) const {
  for (unsigned i = 0; i < abi().vcpu_count && i < CPR_GUEST_MAX_VCPUS; ++i) {
    const uint64_t before = beats(i);
    if (Await(timeout, [this, i, before] { return beats(i) != before; })) continue;
    return absl::DeadlineExceededError(absl::StrCat("vCPU ", i, " of the guest stands still"));
  }
  return absl::OkStatus();
}

absl::Status GuestView::AwaitCopy(absl::Duration timeout) const {
  const uint64_t asked = abi().edu_copies_asked;
  if (asked == 0 || Await(timeout, [this, asked] { return abi().edu_copies_verified > asked; })) {
    return absl::OkStatus();
  }
  return absl::DeadlineExceededError(absl::StrCat("of ", uint64_t{abi().edu_copies_asked},
                                                  " copies through the device ", uint64_t{abi().edu_copies_verified},
                                                  " are verified: it stands still"));
}

absl::Status GuestView::Verify(absl::Duration timeout) const {
  const uint64_t number = abi().verify_request + 1;
  abi().verify_request = number;
  if (!Await(timeout, [this, number] { return abi().verify_done == number || abi().failure != CPR_GUEST_OK; })) {
    return absl::DeadlineExceededError("the guest does not answer the request to check itself");
  }
  if (abi().failure == CPR_GUEST_OK) return absl::OkStatus();
  std::string text;
  for (size_t i = 0; i < sizeof(abi().fail_text) && abi().fail_text[i] != '\0'; ++i) text += abi().fail_text[i];
  return absl::DataLossError(absl::StrCat("the guest says: FAIL ", text));
}

}  // namespace cpr
