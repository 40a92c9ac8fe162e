#include "libcpr/memory/ram_data.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

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

// The first part of `ram` at or behind `begin` that its file has data for, widened to whole pages; empty, at the end,
// if there is none. A file system that cannot tell says it is all data.
RamRange NextData(const MappedRam& ram, uint64_t begin) {
  const RamRange all = {begin, ram.size_bytes}, none = {ram.size_bytes, ram.size_bytes};
  if (ram.fd < 0) return all;
  const off_t base = static_cast<off_t>(ram.offset_bytes);
  const off_t data = ::lseek(ram.fd, base + static_cast<off_t>(begin), SEEK_DATA);
  if (data < 0) return errno == ENXIO ? none : all;
  const uint64_t from = std::max(static_cast<uint64_t>(data - base) / kRamPageBytes * kRamPageBytes, begin);
  if (from >= ram.size_bytes) return none;  // another block's, behind this one in the same file
  const off_t hole = ::lseek(ram.fd, data, SEEK_HOLE);
  if (hole < 0) return {from, ram.size_bytes};
  const uint64_t until = (static_cast<uint64_t>(hole - base) + kRamPageBytes - 1) / kRamPageBytes * kRamPageBytes;
  return {from, std::min(until, ram.size_bytes)};
}

}  // namespace

uint64_t RamDataCursor::DataFrom(uint64_t from) {
  if (from >= known_.end && from < ram_.size_bytes) known_ = NextData(ram_, from);
  return std::max(from, known_.begin);
}

std::vector<RamRange> RamDataCursor::Within(uint64_t begin, uint64_t end) {
  std::vector<RamRange> found;
  while (begin < end && DataFrom(begin) < end) {
    found.push_back({DataFrom(begin), std::min(end, known_.end)});
    begin = found.back().end;
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
