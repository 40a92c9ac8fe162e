#ifndef LIBCPR_MEMORY_RAM_COPY_H_
#define LIBCPR_MEMORY_RAM_COPY_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/base/mutex.h"
#include "libcpr/memory/copy_file.h"
#include "libcpr/memory/copy_threads.h"
#include "libcpr/memory/ram_data.h"
#include "libcpr/memory/ram_extent.h"

// Copies guest RAM that cannot stay in place into a file and back, by several threads, while the caller does something
// else. Byte n of a block goes to byte n of its area of the file, so that the file is as sparse as the RAM. What no
// extent covers is zero.
//
// Both directions are used alike: Start, then Advance whenever fd() is readable, until it is done or has failed.
// Destroying one calls the copying off; that waits for some milliseconds' work. Thread-compatible. Errors carry errno
// (a full disk: kResourceExhausted) and name the block.

namespace cpr {

struct RamCopyOptions {
  // How many threads are started for the copying; they end with it. 0: DefaultCopyThreads().
  unsigned threads = 0;
  // Go past the page cache where the file takes that (CopyFile).
  bool direct = true;
};

class RamCopyOut {
 public:
  // A block, and where its area begins in the file. All is lent.
  struct Source {
    std::string name;
    MappedRam ram;
    uint64_t file_offset_bytes = 0;  // a multiple of 4 KiB
  };

  // Writes `sources`, which should not change meanwhile, to `fd` (lent), which is to be fsynced afterwards.
  static absl::StatusOr<std::unique_ptr<RamCopyOut>> Start(std::vector<Source> sources, int fd,
                                                           const RamCopyOptions& options = {});

  // Only finds what there would be to write: for a stream, which has no holes. The extents lie one behind the other,
  // from file offset 0 on, those of the first source first.
  static absl::StatusOr<std::unique_ptr<RamCopyOut>> StartFinding(std::vector<Source> sources,
                                                                  const RamCopyOptions& options = {});

  // Readable when Advance has something to tell. Lent.
  int fd() const { return threads_->fd(); }
  // How much RAM has been dealt with so far.
  uint64_t done_bytes() const { return done_bytes_; }
  // true: done. false: not yet. Error: what failed first; nothing is being copied any more.
  absl::StatusOr<bool> Advance() { return threads_->Advance(); }
  // The same, waiting for the end.
  absl::Status Finish() { return threads_->Finish(); }

  // Once it is done: the extents of each source, in ascending order.
  std::vector<std::vector<RamExtent>> TakeExtents();

 private:
  // Part of one source, of kMaxRamExtentBytes at most.
  struct Piece {
    size_t source = 0;
    RamRange range;
    std::vector<RamRange> data;
  };

  RamCopyOut(std::vector<Source> sources, int fd, bool direct);
  absl::Status StartThreads(unsigned count);
  bool Take(Piece* piece);
  absl::StatusOr<bool> Step();
  absl::Status Copy(const Piece& piece, std::vector<RamExtent>* extents);

  const std::vector<Source> sources_;
  const bool writes_;
  CopyFile file_;
  std::atomic<uint64_t> done_bytes_{0};
  Mutex mutex_;
  size_t source_ ABSL_GUARDED_BY(mutex_) = 0;  // the next piece begins here
  uint64_t at_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<RamDataCursor> cursors_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::vector<RamExtent>> extents_ ABSL_GUARDED_BY(mutex_);  // by source, in any order
  std::unique_ptr<CopyThreads> threads_;                                 // the first to go: they use all of the above
};

class RamCopyIn {
 public:
  // A block, what is to be copied into it, and whether it is all zeros now. RAM is lent.
  struct Target {
    std::string name;
    MappedRam ram;
    std::vector<RamExtent> extents;
    bool is_zero = false;
  };

  // Fills `targets` from `fd` (lent), a regular file. All extents are validated before the first byte of RAM is
  // touched: kDataLoss. What none covers becomes zero. An extent that is cut or altered is kDataLoss, later: the caller
  // must then discard the RAM.
  static absl::StatusOr<std::unique_ptr<RamCopyIn>> Start(std::vector<Target> targets, int fd,
                                                          const RamCopyOptions& options = {});

  // As above.
  int fd() const { return threads_->fd(); }
  uint64_t done_bytes() const { return done_bytes_; }
  absl::StatusOr<bool> Advance() { return threads_->Advance(); }
  absl::Status Finish() { return threads_->Finish(); }

 private:
  // Part of one target: extents, and pages between them that have to become zero.
  struct Piece {
    size_t target = 0;
    RamRange range;
    absl::Span<const RamExtent> extents;
    std::vector<RamRange> stale;
  };

  RamCopyIn(std::vector<Target> targets, int fd, bool direct);
  bool Take(Piece* piece);
  void TakeFrom(const Target& target, Piece* piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<bool> Step();
  absl::Status Copy(const Piece& piece);

  const std::vector<Target> targets_;
  CopyFile file_;
  std::atomic<uint64_t> done_bytes_{0};
  Mutex mutex_;
  size_t target_ ABSL_GUARDED_BY(mutex_) = 0;  // the next piece begins here
  uint64_t at_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t extent_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<RamDataCursor> cursors_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<CopyThreads> threads_;  // the first to go: they use all of the above
};

}  // namespace cpr

#endif  // LIBCPR_MEMORY_RAM_COPY_H_
