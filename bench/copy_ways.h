#ifndef BENCH_COPY_WAYS_H_
#define BENCH_COPY_WAYS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/memory/ram_copy.h"

// What copy_bench compares: RAM copied into a file and back, and a disk that takes and gives as many bytes.

namespace cpr {

struct CopyPlace {
  uint64_t ram_bytes = 0;
  std::string folder;  // on the disk
};

// RAM as a guest leaves it: one run of touched pages in every `one_in` MiB (0: none), of one MiB, with nothing like
// zeros in it.
struct TouchedRam {
  static absl::StatusOr<std::unique_ptr<TouchedRam>> Create(uint64_t ram_bytes, uint64_t one_in);
  MappedRam Mapped() const { return {mapping.data(), mapping.size_bytes(), fd.get(), 0}; }

  UniqueFd fd;
  Mapping mapping;
  uint64_t touched_bytes = 0;
};

// A file that is gone when this is.
absl::StatusOr<UniqueFd> NewFile(const CopyPlace& place);
// On the disk; on the disk, and nowhere else.
absl::Status Sync(int fd);
absl::Status SyncAndForget(int fd);
bool TakesDirect(const CopyPlace& place);

// Something to be measured: does it once and says how many bytes of touched RAM that were; `*nanoseconds` is what it
// took, without what came before and behind.
using Measured = std::function<absl::StatusOr<uint64_t>(int64_t* nanoseconds)>;
absl::Status Time(int64_t* nanoseconds, absl::FunctionRef<absl::Status()> work);

// The disk alone: the touched bytes, one behind the other.
Measured DiskWrite(CopyPlace place, uint64_t one_in, bool direct);
Measured DiskRead(CopyPlace place, uint64_t one_in, bool direct);
// As cpr-reboot does it. What has come back is compared.
Measured Save(CopyPlace place, uint64_t one_in, RamCopyOptions how);
Measured Load(CopyPlace place, uint64_t one_in, RamCopyOptions how);

}  // namespace cpr

#endif  // BENCH_COPY_WAYS_H_
