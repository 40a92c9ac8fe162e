#ifndef LIBCPR_MEMORY_RAM_DATA_H_
#define LIBCPR_MEMORY_RAM_DATA_H_

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

// Where in guest RAM there is something else than zeros, found out without making holes into pages.

namespace cpr {

constexpr uint64_t kRamPageBytes = 4096;

// A block as it is mapped here; all of it is lent.
struct MappedRam {
  uint8_t* data = nullptr;
  uint64_t size_bytes = 0;  // a multiple of 4 KiB
  // The file under a *shared* mapping, so that its holes are skipped unread (reading one would allocate it), or -1.
  int fd = -1;
  uint64_t offset_bytes = 0;  // of data[0] in that file
};

// Bytes [begin, end) of a block; both multiples of 4 KiB.
struct RamRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t size_bytes() const { return end - begin; }
};

inline absl::string_view RamBytes(const MappedRam& ram, RamRange range) {
  return absl::string_view(reinterpret_cast<const char*>(ram.data) + range.begin, range.size_bytes());
}

// Goes through a block from its start and tells which parts have pages; the rest are holes, which read as zero. It asks
// the file once for each part: asking anew at every step would take time in proportion to all that comes behind.
// Thread-compatible.
class RamDataCursor {
 public:
  explicit RamDataCursor(const MappedRam& ram) : ram_(ram) {}

  // The first byte at or behind `from` that has a page; the size of the block if there is none. `from` never goes back,
  // here and below.
  uint64_t DataFrom(uint64_t from);
  // The parts of [begin, end) that have pages.
  std::vector<RamRange> Within(uint64_t begin, uint64_t end);

 private:
  const MappedRam ram_;
  RamRange known_;  // the part met last; what lies between the one before and this one is a hole
};

// The first run of non-zero pages within `range`, without zero pages at its ends and with no more than 64 KiB of them
// in one place in between: an extent costs some 30 bytes and a system call. Empty, at the end, if all is zero.
RamRange NextRun(const MappedRam& ram, RamRange range);

// Zeroes the pages of `range` that are not zero yet.
void ClearPages(const MappedRam& ram, RamRange range);

}  // namespace cpr

#endif  // LIBCPR_MEMORY_RAM_DATA_H_
