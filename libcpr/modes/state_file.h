#ifndef LIBCPR_MODES_STATE_FILE_H_
#define LIBCPR_MODES_STATE_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// A state on its way into a file that becomes visible complete or not at all: written without a name (O_TMPFILE, or
// under a temporary name where the file system lacks it), fsynced, then named, then the folder fsynced. Mode 0600.
// Until Keep nothing of it remains. Thread-compatible.
//
// With an offset the file is somebody's container for the state (QEMU's file:P,offset=N): it is written in place, the
// header last, and a failure leaves a header that nobody takes for a state.
class StateFile {
 public:
  // `offset_bytes` must be a multiple of 8, for the ownership word. Errors name the path.
  static absl::StatusOr<StateFile> Create(std::string path, uint64_t offset_bytes = 0);

  StateFile(StateFile&&) = default;
  StateFile& operator=(StateFile&&) = default;
  ~StateFile() { Discard(); }

  // For pwrite of what lies behind the state (copied RAM); lent.
  int fd() const { return fd_.get(); }
  uint64_t offset_bytes() const { return offset_bytes_; }
  const std::string& path() const { return path_; }

  // Writes `container` and has it on the disk; that fsync is the one slow step.
  absl::Status Write(absl::string_view container);

  // Gives the file its name. From here on it survives this process, whatever happens to it.
  absl::Status Publish();

  // Has the name on the disk, too: from here on it survives the host.
  absl::Status SyncName() const;

  // Takes everything back, also a file that was published.
  void Discard();

  // Gives up the right to discard: the file stays.
  void Keep() { undo_ = Undo::kNothing; }

 private:
  enum class Undo { kNothing, kUnlinkTemporary, kUnlinkPath, kZeroHeader };

  StateFile(std::string path, uint64_t offset_bytes, UniqueFd fd)
      : path_(std::move(path)), offset_bytes_(offset_bytes), fd_(std::move(fd)) {}
  absl::Status Link();
  std::string TemporaryPath() const;

  std::string path_;
  uint64_t offset_bytes_ = 0;
  UniqueFd fd_;
  Undo undo_ = Undo::kNothing;
  bool named_ = false;  // the file has its temporary name already
};

}  // namespace cpr

#endif  // LIBCPR_MODES_STATE_FILE_H_
