#ifndef VMM_DEVICES_BUS_H_
#define VMM_DEVICES_BUS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/mutex.h"

namespace cpr {

// A device as a bus sees it. `offset` counts from the start of the device's range; `size_bytes` is 1, 2, 4 or 8 and
// at most the range's max_access_bytes; values are little-endian numbers of that size.
struct BusHandler {
  std::function<uint64_t(uint64_t offset, unsigned size_bytes)> read;
  std::function<void(uint64_t offset, unsigned size_bytes, uint64_t value)> write;
};

// An address space of devices: port I/O or memory-mapped I/O.
// Thread-safe: every vCPU calls in. Handlers run without a lock of the bus, so they may add and remove ranges; devices
// lock for themselves, each with one mutex of its own.
class Bus {
 public:
  // Gives [address, address + size_bytes) to `handler`. Wider accesses than `max_access_bytes`, and those that reach
  // beyond the range, are split into pieces, lowest address first, as the chipset would. `name` is for errors.
  // kInvalidArgument: the range is empty or wraps. kAlreadyExists: it overlaps another, which is named.
  absl::Status Add(absl::string_view name, uint64_t address, uint64_t size_bytes, unsigned max_access_bytes,
                   BusHandler handler);
  // Takes the range that starts at `address` away. A call already inside its handler may still be running.
  // kNotFound: none starts there.
  absl::Status Remove(uint64_t address);

  // What nobody claims reads as all ones and swallows writes. `size_bytes` is 1 to 8.
  uint64_t Read(uint64_t address, unsigned size_bytes);
  void Write(uint64_t address, unsigned size_bytes, uint64_t value);

 private:
  struct Range {
    std::string name;
    uint64_t address, last;  // inclusive, so that a range may end where the space does
    unsigned max_access_bytes;
    BusHandler handler;
  };
  std::shared_ptr<const Range> Find(uint64_t address) const;
  // The largest naturally sized piece, at most `size_bytes`, that `range` takes at `address`; 1 for nobody's bytes.
  static unsigned Piece(const Range* range, uint64_t address, unsigned size_bytes);

  mutable SharedMutex mutex_;
  std::map<uint64_t, std::shared_ptr<const Range>> ranges_ ABSL_GUARDED_BY(mutex_);  // by first address
};

}  // namespace cpr

#endif  // VMM_DEVICES_BUS_H_
