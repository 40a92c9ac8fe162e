#include "libcpr/memory/ram_data.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>

namespace cpr {
namespace {

constexpr uint64_t kSmallGapBytes = 64 << 10;

bool IsZeroPage(const uint8_t* page) {
  constexpr size_t kWords = 64;
  for (uint64_t at = 0; at < kRamPageBytes; at += kWords * sizeof(uint64_t)) {
    uint64_t words[kWords];
    std::memcpy(words, page + at, sizeof(words));
    uint64_t any = 0;
    for (const uint64_t word : words) any |= word;
    if (any != 0) return false;
  }
  return true;
}

}  // namespace

RamDataCursor::RamDataCursor(const MappedRam& ram) : ram_(ram) {
  if (ram.is_private && ::sysconf(_SC_PAGESIZE) == static_cast<long>(kRamPageBytes))
    pagemap_.Reset(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
}

// The first part at or behind `from` that the file has data for, widened to whole pages; empty, at the end, if there is
// none. A file system that cannot tell says it is all data.
RamRange RamDataCursor::NextInFile(uint64_t from) const {
  const RamRange all = {from, ram_.size_bytes}, none = {ram_.size_bytes, ram_.size_bytes};
  if (ram_.fd < 0) return ram_.is_private ? none : all;
  const off_t base = static_cast<off_t>(ram_.offset_bytes);
  const off_t data = ::lseek(ram_.fd, base + static_cast<off_t>(from), SEEK_DATA);
  if (data < 0) return errno == ENXIO ? none : all;
  const uint64_t begin = std::max(static_cast<uint64_t>(data - base) / kRamPageBytes * kRamPageBytes, from);
  if (begin >= ram_.size_bytes) return none;  // another block's, behind this one in the same file
  const off_t hole = ::lseek(ram_.fd, data, SEEK_HOLE);
  if (hole < 0) return {begin, ram_.size_bytes};
  const uint64_t end = (static_cast<uint64_t>(hole - base) + kRamPageBytes - 1) / kRamPageBytes * kRamPageBytes;
  return {begin, std::min(end, ram_.size_bytes)};
}

// The same of pages that a private mapping has, in memory or swapped out. If the kernel does not tell, it is all of
// them.
RamRange RamDataCursor::NextTouched(uint64_t from) const {
  constexpr uint64_t kPresentOrSwapped = uint64_t{3} << 62;
  RamRange run = {ram_.size_bytes, ram_.size_bytes};
  if (!ram_.is_private) return run;
  uint64_t entries[512];
  for (uint64_t at = from; at < ram_.size_bytes;) {
    const size_t count = std::min<uint64_t>(std::size(entries), (ram_.size_bytes - at) / kRamPageBytes);
    const uint64_t first = (reinterpret_cast<uintptr_t>(ram_.data) + at) / kRamPageBytes;
    const ssize_t size_bytes = static_cast<ssize_t>(count * sizeof(entries[0]));
    if (::pread(pagemap_.get(), entries, static_cast<size_t>(size_bytes),
                static_cast<off_t>(first * sizeof(entries[0]))) != size_bytes) {
      return {from, ram_.size_bytes};
    }
    for (size_t i = 0; i < count; ++i, at += kRamPageBytes) {
      const bool touched = (entries[i] & kPresentOrSwapped) != 0;
      if (touched && run.begin == ram_.size_bytes) run.begin = at;
      if (!touched && run.begin != ram_.size_bytes) return {run.begin, at};
    }
  }
  return run;
}

uint64_t RamDataCursor::DataFrom(uint64_t from) {
  if (from >= ram_.size_bytes) return from;
  if (from >= in_file_.end) in_file_ = NextInFile(from);
  if (from >= touched_.end) touched_ = NextTouched(from);
  return std::max(from, std::min(in_file_.begin, touched_.begin));
}

std::vector<RamRange> RamDataCursor::Within(uint64_t begin, uint64_t end) {
  std::vector<RamRange> found;
  for (uint64_t at = begin; at < end;) {
    at = DataFrom(at);
    if (at >= end) break;
    const uint64_t until = in_file_.begin <= at ? in_file_.end : touched_.end;
    if (found.empty() || found.back().end != at) found.push_back({at, at});
    at = found.back().end = std::min(end, until);
  }
  return found;
}

RamRange NextRun(const MappedRam& ram, RamRange range) {
  while (range.begin < range.end && IsZeroPage(ram.data + range.begin)) range.begin += kRamPageBytes;
  RamRange run{range.begin, range.begin};
  for (uint64_t at = range.begin; at < range.end; at += kRamPageBytes) {
    if (!IsZeroPage(ram.data + at)) {
      run.end = at + kRamPageBytes;
    } else if (at - run.end >= kSmallGapBytes) {
      break;
    }
  }
  return run;
}

void ClearPages(const MappedRam& ram, RamRange range) {
  for (uint64_t at = range.begin; at < range.end; at += kRamPageBytes) {
    if (!IsZeroPage(ram.data + at)) std::memset(ram.data + at, 0, kRamPageBytes);
  }
}

}  // namespace cpr
