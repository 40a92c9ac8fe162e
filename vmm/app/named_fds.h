#ifndef VMM_APP_NAMED_FDS_H_
#define VMM_APP_NAMED_FDS_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// The descriptors that addresses "fd:NAME" speak of: those given by getfd, and by their numbers those that the program
// was started with. Thread-compatible.
class NamedFds {
 public:
  // Keeps `fd` for `name`; a former one of this name is closed.
  void Adopt(absl::string_view name, UniqueFd fd) { fds_[std::string(name)] = std::move(fd); }

  enum class Use { kRead, kWrite };
  // For a stream of bytes, non-blocking unless it is a regular file: a descriptor given by getfd itself (which is gone
  // then), or a duplicate of the one with this number. kNotFound, in QEMU's words; kInvalidArgument: it is neither file
  // nor pipe nor stream socket, or not open for `use`; then it stays.
  absl::StatusOr<UniqueFd> TakeStream(const std::string& name, Use use);
  // The same, but kInvalidArgument for a regular file, too.
  absl::StatusOr<UniqueFd> TakePipeOrSocket(const std::string& name, Use use);

 private:
  // Lent.
  absl::StatusOr<int> Find(const std::string& name) const;
  std::map<std::string, UniqueFd> fds_;
};

}  // namespace cpr

#endif  // VMM_APP_NAMED_FDS_H_
