#ifndef TESTS_DISK_LOG_DISK_LOG_H_
#define TESTS_DISK_LOG_DISK_LOG_H_

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

// All that was written to a disk, in the order in which it was, and when its cache was flushed: what QEMU's
// blklogwrites leaves, in the format of Linux' dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst).
// From it comes what the disk holds if the power fails at any moment.

namespace cpr {

class DiskLog {
 public:
  // What is in `fd` (lent, for as long as this lives) so far. kDataLoss: it is no such log, or is cut.
  static absl::StatusOr<DiskLog> Read(int fd);

  size_t size() const { return entries_.size(); }

  // Writes to `disk` (lent), a file of zeros, what a disk holds when the power fails behind the first `count` entries.
  // What was flushed is there, and what was written through. Of the rest, which the disk's cache had alone, each piece
  // of 4 KiB is there or is not, as `seed` has it; 0: all of it is there. Errors carry errno.
  absl::Status Replay(size_t count, uint64_t seed, int disk) const;

 private:
  struct Entry {
    uint64_t offset_bytes = 0, size_bytes = 0;  // on the disk
    uint64_t flags = 0;
    uint64_t log_bytes = 0;  // where its data lies in the log
  };

  explicit DiskLog(int fd) : fd_(fd) {}
  absl::Status Write(const Entry& entry, uint64_t piece_bytes, absl::FunctionRef<bool()> there, int disk) const;

  const int fd_;
  std::vector<Entry> entries_;
};

}  // namespace cpr

#endif  // TESTS_DISK_LOG_DISK_LOG_H_
