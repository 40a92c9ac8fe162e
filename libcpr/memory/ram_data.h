#ifndef LIBCPR_MEMORY_RAM_DATA_H_
#define LIBCPR_MEMORY_RAM_DATA_H_

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "libcpr/base/unique_fd.h"

// Where in guest RAM there is something else than zeros, found out without making holes into pages.

namespace cpr {

constexpr uint64_t kRamPageBytes = 4096;

// A block as it is mapped here; all of it is lent.
struct MappedRam {
  uint8_t* data = nullptr;
  uint64_t size_bytes = 0;  // a multiple of 4 KiB
  // The file under the mapping, so that its holes are skipped unread (reading one would allocate it), or -1.
  int fd = -1;
  uint64_t offset_bytes = 0;  // of data[0] in that file
  // A private mapping instead, of that file or of nothing: what it has not been given a page of its own for is as in
  // the file, or zero.
  bool is_private = false;
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
  explicit RamDataCursor(const MappedRam& ram);

  // The first byte at or behind `from` that has a page; the size of the block if there is none. `from` never goes back,
  // here and below.
  uint64_t DataFrom(uint64_t from);
  // The parts of [begin, end) that have pages.
  std::vector<RamRange> Within(uint64_t begin, uint64_t end);

 private:
  RamRange NextInFile(uint64_t from) const;
  RamRange NextTouched(uint64_t from) const;

  const MappedRam ram_;
  UniqueFd pagemap_;  // of this process; only for a private mapping
  // The part met last in the file, and of pages of a private mapping's own. Between one and the next there is nothing.
  RamRange in_file_, touched_;
};

// The first run of non-zero pages within `range`, without zero pages at its ends and with no more than 64 KiB of them
// in one place in between: an extent costs some 30 bytes and a system call. Empty, at the end, if all is zero.
RamRange NextRun(const MappedRam& ram, RamRange range);

// Zeroes the pages of `range` that are not zero yet.
void ClearPages(const MappedRam& ram, RamRange range);

}  // namespace cpr

#endif  // LIBCPR_MEMORY_RAM_DATA_H_
