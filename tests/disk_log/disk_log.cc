#include "tests/disk_log/disk_log.h"

#include <algorithm>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

constexpr uint64_t kMagic = 0x6a736677736872;
constexpr uint64_t kVersion = 1;
constexpr uint64_t kFlush = 1, kFua = 2, kDiscard = 4;
constexpr uint64_t kPieceBytes = 4096;
constexpr uint32_t kMaxSectorBytes = 4096;

struct SuperBlock {  // the first sector
  uint64_t magic, version, entries;
  uint32_t sector_bytes;
};

struct Header {  // of an entry: a sector, and its data behind that
  uint64_t sector, sectors, flags, data_bytes;
};

template <typename T>
absl::StatusOr<T> ReadAt(int fd, uint64_t offset_bytes) {
  T value;
  CPR_RETURN_IF_ERROR(PreadAll(fd, reinterpret_cast<char*>(&value), sizeof(value), offset_bytes));
  return value;
}

}  // namespace

absl::StatusOr<DiskLog> DiskLog::Read(int fd) {
  CPR_ASSIGN_OR_RETURN(const SuperBlock super, ReadAt<SuperBlock>(fd, 0));
  if (super.magic != kMagic || super.version != kVersion) return absl::DataLossError("no log of a disk's writes");
  if (super.sector_bytes < sizeof(Header) || super.sector_bytes > kMaxSectorBytes) {
    return absl::DataLossError(absl::StrCat("a log with sectors of ", super.sector_bytes, " bytes"));
  }
  DiskLog log(fd);
  uint64_t at = super.sector_bytes;
  for (uint64_t i = 0; i < super.entries; ++i) {
    CPR_ASSIGN_OR_RETURN(const Header header, ReadAt<Header>(fd, at));
    at += super.sector_bytes;
    const uint64_t size_bytes = header.sectors * super.sector_bytes;
    log.entries_.push_back({header.sector * super.sector_bytes, size_bytes, header.flags, at});
    if ((header.flags & kDiscard) == 0) at += size_bytes;
  }
  return log;
}

absl::Status DiskLog::Replay(size_t count, uint64_t seed, int disk) const {
  count = std::min(count, entries_.size());
  size_t flushed = count;  // entries before this one are on the disk
  while (flushed > 0 && (entries_[flushed - 1].flags & kFlush) == 0) --flushed;
  std::mt19937_64 random(seed);
  for (size_t i = 0; i < count; ++i) {
    const bool safe = seed == 0 || i < flushed || (entries_[i].flags & kFua) != 0;
    CPR_RETURN_IF_ERROR(safe ? Write(entries_[i], entries_[i].size_bytes, [] { return true; }, disk)
                             : Write(entries_[i], kPieceBytes, [&] { return random() % 2 == 0; }, disk));
  }
  return absl::OkStatus();
}

absl::Status DiskLog::Write(const Entry& entry, uint64_t piece_bytes, absl::FunctionRef<bool()> there, int disk) const {
  std::string piece;
  for (uint64_t at = 0; at < entry.size_bytes; at += piece.size()) {
    piece.assign(std::min(piece_bytes, entry.size_bytes - at), '\0');  // what a discard leaves
    if (!there()) continue;
    if ((entry.flags & kDiscard) == 0) {
      CPR_RETURN_IF_ERROR(PreadAll(fd_, piece.data(), piece.size(), entry.log_bytes + at));
    }
    CPR_RETURN_IF_ERROR(PwriteAll(disk, piece, entry.offset_bytes + at));
  }
  return absl::OkStatus();
}

}  // namespace cpr
