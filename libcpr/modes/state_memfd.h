#ifndef LIBCPR_MODES_STATE_MEMFD_H_
#define LIBCPR_MODES_STATE_MEMFD_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/vmstate/section.h"

namespace cpr {

// A memfd for encoded state. State goes by descriptor where it can: it may be larger than a packet.
absl::StatusOr<UniqueFd> CreateStateMemfd();

// The container at `offset_bytes` of `fd`, its size taken from its header and checked before anything is allocated. It
// is read, never mapped: a peer that cuts its file gives an error, not SIGBUS.
absl::StatusOr<std::string> ReadContainer(int fd, uint64_t offset_bytes = 0);

// One container with the sections of `stage`.
absl::StatusOr<std::string> EncodeContainer(const SectionRegistry& sections, Stage stage);

}  // namespace cpr

#endif  // LIBCPR_MODES_STATE_MEMFD_H_
