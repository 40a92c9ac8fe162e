#include "libcpr/memory/ram_copy.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/crc32c.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

constexpr uint64_t kPageBytes = 4096;
// Zero pages between data are written along up to this length: an extent costs some 30 bytes and a system call.
constexpr uint64_t kSmallGapBytes = 64 << 10;

bool IsZeroPage(const uint8_t* page) {
  constexpr size_t kWords = 64;
  for (uint64_t at = 0; at < kPageBytes; at += kWords * sizeof(uint64_t)) {
    uint64_t words[kWords];
    std::memcpy(words, page + at, sizeof(words));
    uint64_t any = 0;
    for (const uint64_t word : words) any |= word;
    if (any != 0) return false;
  }
  return true;
}

struct Range {
  uint64_t begin = 0;
  uint64_t end = 0;
};

// The first range of `ram` within [begin, end) that its file has data for, widened to whole pages; empty if none. A
// file system that cannot tell says it is all data.
Range NextData(const MappedRam& ram, uint64_t begin, uint64_t end) {
  if (ram.fd < 0) return {begin, end};
  const off_t base = static_cast<off_t>(ram.offset_bytes);
  const off_t data = ::lseek(ram.fd, base + static_cast<off_t>(begin), SEEK_DATA);
  if (data < 0) return errno == ENXIO ? Range{end, end} : Range{begin, end};
  const off_t hole = ::lseek(ram.fd, data, SEEK_HOLE);
  const uint64_t from = std::clamp(static_cast<uint64_t>(data - base) / kPageBytes * kPageBytes, begin, end);
  if (hole < 0) return {from, end};
  const uint64_t until = (static_cast<uint64_t>(hole - base) + kPageBytes - 1) / kPageBytes * kPageBytes;
  return {from, std::clamp(until, from, end)};
}

// The first run of non-zero pages within [begin, end), of one extent at most, without zero pages at its ends.
Range NextRun(const MappedRam& ram, uint64_t begin, uint64_t end) {
  while (begin < end && IsZeroPage(ram.data + begin)) begin += kPageBytes;
  Range run{begin, begin};
  for (uint64_t at = begin; at < std::min(end, begin + kMaxRamExtentBytes); at += kPageBytes) {
    if (!IsZeroPage(ram.data + at)) {
      run.end = at + kPageBytes;
    } else if (at - run.end >= kSmallGapBytes) {
      break;
    }
  }
  return run;
}

absl::Status Report(const CopyProgress& progress, uint64_t done_bytes) {
  if (progress == nullptr || progress(done_bytes)) return absl::OkStatus();
  return absl::CancelledError("copying of RAM was called off");
}

absl::string_view BytesOf(const MappedRam& ram, Range range) {
  return absl::string_view(reinterpret_cast<const char*>(ram.data) + range.begin, range.end - range.begin);
}

// Calls `visit` with each run of data in [begin_bytes, end_bytes), in ascending order.
absl::Status ForEachRun(const MappedRam& ram, uint64_t begin_bytes, uint64_t end_bytes,
                        absl::FunctionRef<absl::Status(Range run)> visit, const CopyProgress& progress) {
  if (begin_bytes > end_bytes || end_bytes > ram.size_bytes || (begin_bytes | end_bytes) % kPageBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("range ", begin_bytes, "..", end_bytes, " of RAM of ", ram.size_bytes, " bytes"));
  }
  for (uint64_t at = begin_bytes; at < end_bytes;) {
    const Range data = NextData(ram, at, end_bytes);
    for (at = data.begin; at < data.end;) {
      const Range run = NextRun(ram, at, std::min(data.end, at + kMaxRamExtentBytes));
      if (run.begin < run.end) CPR_RETURN_IF_ERROR(visit(run));
      at = std::max(run.begin, run.end);
      CPR_RETURN_IF_ERROR(Report(progress, at - begin_bytes));
    }
    at = std::max(at, data.end);
  }
  return absl::OkStatus();
}

// Zeroes what is not zero yet in [begin, end), without allocating holes.
void Clear(const MappedRam& ram, uint64_t begin, uint64_t end) {
  for (Range data = NextData(ram, begin, end); data.begin < end; data = NextData(ram, data.end, end)) {
    for (uint64_t at = data.begin; at < data.end; at += kPageBytes) {
      if (!IsZeroPage(ram.data + at)) std::memset(ram.data + at, 0, kPageBytes);
    }
    if (data.end >= end) return;
  }
}

absl::Status CopyExtentIn(const RamExtent& extent, int fd, const MappedRam& ram) {
  char* at = reinterpret_cast<char*>(ram.data) + extent.ram_offset_bytes;
  CPR_RETURN_IF_ERROR(PreadAll(fd, at, extent.size_bytes, extent.file_offset_bytes));
  if (Crc32c(absl::string_view(at, extent.size_bytes)) == extent.crc32c) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("RAM at offset ", extent.ram_offset_bytes, " (", extent.size_bytes,
                                          " bytes) does not fit its checksum"));
}

}  // namespace

v1::RamExtent RamExtentToProto(const RamExtent& extent) {
  v1::RamExtent proto;
  proto.set_ram_offset_bytes(extent.ram_offset_bytes);
  proto.set_size_bytes(extent.size_bytes);
  proto.set_file_offset_bytes(extent.file_offset_bytes);
  proto.set_crc32c(extent.crc32c);
  return proto;
}

RamExtent RamExtentFromProto(const v1::RamExtent& extent) {
  return {.ram_offset_bytes = extent.ram_offset_bytes(),
          .size_bytes = extent.size_bytes(),
          .file_offset_bytes = extent.file_offset_bytes(),
          .crc32c = extent.crc32c()};
}

absl::StatusOr<std::vector<RamExtent>> CopyRamOut(const MappedRam& ram, uint64_t begin_bytes, uint64_t end_bytes,
                                                  int fd, uint64_t file_offset_bytes, const CopyProgress& progress) {
  std::vector<RamExtent> extents;
  CPR_RETURN_IF_ERROR(ForEachRun(
      ram, begin_bytes, end_bytes,
      [&](Range run) -> absl::Status {
        const absl::string_view bytes = BytesOf(ram, run);
        const uint64_t file_at = file_offset_bytes + run.begin;
        CPR_RETURN_IF_ERROR(PwriteAll(fd, bytes, file_at));
        extents.push_back({run.begin, bytes.size(), file_at, Crc32c(bytes)});
        return absl::OkStatus();
      },
      progress));
  return extents;
}

absl::StatusOr<std::vector<RamExtent>> FindRamExtents(const MappedRam& ram, uint64_t begin_bytes, uint64_t end_bytes,
                                                      uint64_t file_offset_bytes) {
  std::vector<RamExtent> extents;
  CPR_RETURN_IF_ERROR(ForEachRun(
      ram, begin_bytes, end_bytes,
      [&](Range run) {
        const absl::string_view bytes = BytesOf(ram, run);
        extents.push_back({run.begin, bytes.size(), file_offset_bytes, Crc32c(bytes)});
        file_offset_bytes += bytes.size();
        return absl::OkStatus();
      },
      nullptr));
  return extents;
}

absl::Status ValidateRamExtents(absl::Span<const RamExtent> extents, uint64_t ram_bytes, uint64_t file_bytes) {
  uint64_t covered_until = 0;
  for (const RamExtent& e : extents) {
    const bool sized = e.size_bytes != 0 && e.size_bytes <= kMaxRamExtentBytes && e.size_bytes % kPageBytes == 0;
    const bool in_ram = e.ram_offset_bytes % kPageBytes == 0 && e.ram_offset_bytes >= covered_until &&
                        e.ram_offset_bytes < ram_bytes && e.size_bytes <= ram_bytes - e.ram_offset_bytes;
    const bool in_file = e.file_offset_bytes < file_bytes && e.size_bytes <= file_bytes - e.file_offset_bytes;
    if (!sized || !in_ram || !in_file) {
      return absl::DataLossError(absl::StrCat("extent of RAM at offset ", e.ram_offset_bytes, ", ", e.size_bytes,
                                              " bytes from file offset ", e.file_offset_bytes,
                                              !sized    ? ": wrong size"
                                              : !in_ram ? ": not within the block, or out of order"
                                                        : ": past the end of the file"));
    }
    covered_until = e.ram_offset_bytes + e.size_bytes;
  }
  return absl::OkStatus();
}

absl::Status CopyRamIn(absl::Span<const RamExtent> extents, int fd, const MappedRam& ram, bool ram_is_zero,
                       const CopyProgress& progress) {
  struct stat st;
  if (::fstat(fd, &st) != 0) return ErrnoStatus(errno, "fstat of the file with RAM");
  CPR_RETURN_IF_ERROR(ValidateRamExtents(extents, ram.size_bytes, static_cast<uint64_t>(st.st_size)));
  uint64_t at = 0;
  for (const RamExtent& extent : extents) {
    if (!ram_is_zero) Clear(ram, at, extent.ram_offset_bytes);
    CPR_RETURN_IF_ERROR(CopyExtentIn(extent, fd, ram));
    at = extent.ram_offset_bytes + extent.size_bytes;
    CPR_RETURN_IF_ERROR(Report(progress, at));
  }
  if (!ram_is_zero) Clear(ram, at, ram.size_bytes);
  return absl::OkStatus();
}

}  // namespace cpr
