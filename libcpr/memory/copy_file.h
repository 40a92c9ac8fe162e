#ifndef LIBCPR_MEMORY_COPY_FILE_H_
#define LIBCPR_MEMORY_COPY_FILE_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/mutex.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// A file that guest RAM is copied into or out of, with nothing left behind in the page cache, which the next VMM needs
// for the guest. Large aligned pieces go past it (O_DIRECT), where the file takes that and the memory can be reached by
// a device. The others go through it: they are on their way to the disk soon and then dropped. Thread-safe for distinct
// ranges.
class CopyFile {
 public:
  enum class Use { kRead, kWrite };

  // `fd` is lent and must outlive this. Not `direct`: everything goes through the page cache.
  CopyFile(int fd, Use use, bool direct);

  // Whether large pieces go past the page cache. Ends when the file refuses one.
  bool direct() const { return direct_.load(std::memory_order_relaxed); }

  // Makes a regular file that is to be written past the page cache at least so long: pieces that lengthen the file
  // would be written one after the other. Whether it can is seen when they are written.
  void Lengthen(uint64_t size_bytes);
  // Undoes that behind `size_bytes`, all that it got: whoever reads the file as a stream meets its end there.
  void Shorten(uint64_t size_bytes) const;

  // All of it. Errors carry errno (a full disk: kResourceExhausted). It may still be on its way to the disk: fsync
  // tells.
  absl::Status Write(absl::string_view bytes, uint64_t offset_bytes);
  // All of it; kDataLoss when the file ends before.
  absl::Status Read(char* data, size_t size_bytes, uint64_t offset_bytes);

  // This range will be read soon: has the kernel begin, unless it is for O_DIRECT.
  void ReadAhead(size_t size_bytes, uint64_t offset_bytes) const;
  // Nothing will be read in this range again.
  void DoneReading(uint64_t size_bytes, uint64_t offset_bytes) const;
  // Everything in this range has been written: sends it to the disk, and waits for what was sent some time ago. Errors
  // are those of the disk.
  absl::Status DoneWriting(uint64_t size_bytes, uint64_t offset_bytes);

 private:
  struct Range {
    uint64_t size_bytes, offset_bytes;
  };

  bool Suits(const void* data, uint64_t size_bytes, uint64_t offset_bytes) const;
  // How much `transfer` got done past the page cache; the rest has to go through it.
  absl::StatusOr<size_t> Direct(size_t size_bytes, absl::FunctionRef<ssize_t(size_t done)> transfer,
                                absl::string_view what);

  const int fd_;
  UniqueFd direct_fd_;                       // another description of the same file
  std::optional<uint64_t> lengthened_from_;  // how long it was
  std::atomic<bool> direct_{false};
  Mutex mutex_;
  std::deque<Range> sent_ ABSL_GUARDED_BY(mutex_);  // on its way to the disk
  uint64_t sent_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace cpr

#endif  // LIBCPR_MEMORY_COPY_FILE_H_
