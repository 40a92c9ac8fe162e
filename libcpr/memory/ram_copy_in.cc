#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/crc32c.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/memory/ram_copy.h"

namespace cpr {
namespace {

// How much RAM without extents is one piece: it is only looked at, or zeroed.
constexpr uint64_t kEmptyBytes = 64 << 20;

std::string BlockName(const RamCopyIn::Target& target) { return absl::StrCat("RAM block '", target.name, "'"); }

}  // namespace

RamCopyIn::RamCopyIn(std::vector<Target> targets, int fd, bool direct)
    : targets_(std::move(targets)), file_(fd, CopyFile::Use::kRead, direct) {
  for (const Target& target : targets_) cursors_.emplace_back(target.ram);
}

absl::StatusOr<std::unique_ptr<RamCopyIn>> RamCopyIn::Start(std::vector<Target> targets, int fd,
                                                            const RamCopyOptions& options) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return ErrnoStatus(errno, "fstat of the file with RAM");
  for (const Target& target : targets) {
    CPR_RETURN_IF_ERROR(
        Annotate(ValidateRamExtents(target.extents, target.ram.size_bytes, static_cast<uint64_t>(info.st_size)),
                 BlockName(target)));
  }
  auto copy = std::unique_ptr<RamCopyIn>(new RamCopyIn(std::move(targets), fd, options.direct));
  CPR_ASSIGN_OR_RETURN(copy->threads_, CopyThreads::Start(options.threads != 0 ? options.threads : DefaultCopyThreads(),
                                                          [self = copy.get()] { return self->Step(); }));
  return copy;
}

bool RamCopyIn::Take(Piece* piece) {
  MutexLock lock(&mutex_);
  for (; target_ < targets_.size(); ++target_, at_ = 0, extent_ = 0) {
    if (at_ >= targets_[target_].ram.size_bytes) continue;
    TakeFrom(targets_[target_], piece);
    return true;
  }
  return false;
}

// As many extents as make up one of full size, or a stretch in which there are few.
void RamCopyIn::TakeFrom(const Target& target, Piece* piece) {
  const uint64_t limit = std::min(target.ram.size_bytes, at_ + kEmptyBytes);
  const size_t first = extent_;
  uint64_t bytes = 0, end = at_;
  bool full = false;
  *piece = {};
  for (; extent_ < target.extents.size() && target.extents[extent_].ram_offset_bytes < limit; ++extent_) {
    const RamExtent& next = target.extents[extent_];
    full = bytes != 0 && bytes + next.size_bytes > kMaxRamExtentBytes;
    if (full) break;
    if (!target.is_zero) {
      for (const RamRange& stale : cursors_[target_].Within(end, next.ram_offset_bytes)) piece->stale.push_back(stale);
    }
    bytes += next.size_bytes;
    end = next.ram_offset_bytes + next.size_bytes;
  }
  if (!full && end < limit) {
    if (!target.is_zero) {
      for (const RamRange& stale : cursors_[target_].Within(end, limit)) piece->stale.push_back(stale);
    }
    end = limit;
  }
  piece->target = target_;
  piece->range = {at_, end};
  piece->extents = absl::MakeConstSpan(target.extents).subspan(first, extent_ - first);
  at_ = end;
}

absl::StatusOr<bool> RamCopyIn::Step() {
  Piece piece;
  if (!Take(&piece)) return false;
  CPR_RETURN_IF_ERROR(Annotate(Copy(piece), BlockName(targets_[piece.target])));
  done_bytes_ += piece.range.size_bytes();
  return true;
}

absl::Status RamCopyIn::Copy(const Piece& piece) {
  const MappedRam& ram = targets_[piece.target].ram;
  for (const RamExtent& extent : piece.extents) file_.ReadAhead(extent.size_bytes, extent.file_offset_bytes);
  for (const RamRange& stale : piece.stale) ClearPages(ram, stale);
  for (const RamExtent& extent : piece.extents) {
    const RamRange range = {extent.ram_offset_bytes, extent.ram_offset_bytes + extent.size_bytes};
    CPR_RETURN_IF_ERROR(
        file_.Read(reinterpret_cast<char*>(ram.data) + range.begin, extent.size_bytes, extent.file_offset_bytes));
    file_.DoneReading(extent.size_bytes, extent.file_offset_bytes);
    if (Crc32c(RamBytes(ram, range)) == extent.crc32c) continue;
    return absl::DataLossError(
        absl::StrCat("RAM at offset ", range.begin, " (", extent.size_bytes, " bytes) does not fit its checksum"));
  }
  return absl::OkStatus();
}

}  // namespace cpr
