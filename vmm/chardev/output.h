#ifndef VMM_CHARDEV_OUTPUT_H_
#define VMM_CHARDEV_OUTPUT_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// Writes to a descriptor without ever waiting for its reader and without changing the flags of its description, which
// may be shared (a shell's terminal). What cannot be written yet is kept, up to kLimitBytes. Thread-compatible.
class Output {
 public:
  static constexpr size_t kLimitBytes = 256 << 10;
  enum class Result {
    kDone,     // nothing left
    kBlocked,  // wait for EPOLLOUT, or for the next write where the disk is full
    kBroken,   // the reader is gone; what was left has been dropped
  };

  // From now on writes to `fd`. What is kept stays.
  void Attach(UniqueFd fd);
  // Closes the fd and drops what is kept.
  void Detach();
  // The fd, or -1. Lent.
  int fd() const { return fd_.get(); }

  // Keeps `data` for Flush; what does not fit, or has no fd to go to, is dropped and counted.
  void Queue(absl::string_view data);
  Result Flush();

  absl::string_view unwritten() const { return buffer_; }
  uint64_t dropped_bytes() const { return dropped_bytes_; }
  // Keeps `unwritten` (at most kLimitBytes) instead of what is kept.
  void Restore(absl::string_view unwritten, uint64_t dropped_bytes);

 private:
  enum class Way { kSend, kWrite, kPollThenWrite };
  ssize_t WriteSome(absl::string_view data);
  void Drop(size_t size_bytes) { dropped_bytes_ += size_bytes; }

  UniqueFd fd_;
  Way way_ = Way::kWrite;
  std::string buffer_;
  uint64_t dropped_bytes_ = 0;
};

}  // namespace cpr

#endif  // VMM_CHARDEV_OUTPUT_H_
