#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/crc32c.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/memory/ram_copy.h"

namespace cpr {
namespace {

// Where the last of the extents ends, which are in ascending order.
uint64_t EndInFile(const std::vector<std::vector<RamExtent>>& all) {
  uint64_t end_bytes = 0;
  for (const std::vector<RamExtent>& extents : all) {
    if (extents.empty()) continue;
    end_bytes = std::max(end_bytes, extents.back().file_offset_bytes + extents.back().size_bytes);
  }
  return end_bytes;
}

}  // namespace

RamCopyOut::RamCopyOut(std::vector<Source> sources, int fd, bool direct)
    : sources_(std::move(sources)),
      writes_(fd >= 0),
      file_(fd, CopyFile::Use::kWrite, direct),
      extents_(sources_.size()) {
  for (const Source& source : sources_) cursors_.emplace_back(source.ram);
}

absl::StatusOr<std::unique_ptr<RamCopyOut>> RamCopyOut::Start(std::vector<Source> sources, int fd,
                                                              const RamCopyOptions& options) {
  auto copy = std::unique_ptr<RamCopyOut>(new RamCopyOut(std::move(sources), fd, options.direct));
  for (const Source& source : copy->sources_) copy->file_.Lengthen(source.file_offset_bytes + source.ram.size_bytes);
  CPR_RETURN_IF_ERROR(copy->StartThreads(options.threads));
  return copy;
}

absl::StatusOr<std::unique_ptr<RamCopyOut>> RamCopyOut::StartFinding(std::vector<Source> sources,
                                                                     const RamCopyOptions& options) {
  auto copy = std::unique_ptr<RamCopyOut>(new RamCopyOut(std::move(sources), -1, false));
  CPR_RETURN_IF_ERROR(copy->StartThreads(options.threads));
  return copy;
}

absl::Status RamCopyOut::StartThreads(unsigned count) {
  CPR_ASSIGN_OR_RETURN(threads_,
                       CopyThreads::Start(count != 0 ? count : DefaultCopyThreads(), [this] { return Step(); }));
  return absl::OkStatus();
}

bool RamCopyOut::Take(Piece* piece) {
  MutexLock lock(&mutex_);
  for (; source_ < sources_.size(); ++source_, at_ = 0) {
    const uint64_t size_bytes = sources_[source_].ram.size_bytes;
    const uint64_t data = cursors_[source_].DataFrom(at_);
    done_bytes_ += data - at_;
    at_ = data;
    if (at_ >= size_bytes) continue;
    // No extent crosses these borders, so that what becomes an extent does not depend on who copies what.
    const uint64_t end = std::min(size_bytes, (at_ / kMaxRamExtentBytes + 1) * kMaxRamExtentBytes);
    *piece = {source_, {at_, end}, cursors_[source_].Within(at_, end)};
    at_ = end;
    return true;
  }
  return false;
}

absl::StatusOr<bool> RamCopyOut::Step() {
  Piece piece;
  if (!Take(&piece)) return false;
  const Source& source = sources_[piece.source];
  std::vector<RamExtent> extents;
  CPR_RETURN_IF_ERROR(Annotate(Copy(piece, &extents), absl::StrCat("RAM block '", source.name, "'")));
  done_bytes_ += piece.range.size_bytes();
  MutexLock lock(&mutex_);
  std::vector<RamExtent>& all = extents_[piece.source];
  all.insert(all.end(), extents.begin(), extents.end());
  return true;
}

absl::Status RamCopyOut::Copy(const Piece& piece, std::vector<RamExtent>* extents) {
  const Source& source = sources_[piece.source];
  for (RamRange data : piece.data) {
    while (data.begin < data.end) {
      const RamRange run = NextRun(source.ram, data);
      data.begin = std::max(run.end, run.begin);
      if (run.size_bytes() == 0) continue;
      const uint64_t file_at = source.file_offset_bytes + run.begin;
      if (writes_) CPR_RETURN_IF_ERROR(file_.Write(RamBytes(source.ram, run), file_at));
      extents->push_back({run.begin, run.size_bytes(), file_at, Crc32c(RamBytes(source.ram, run))});
    }
  }
  if (!writes_) return absl::OkStatus();
  return file_.DoneWriting(piece.range.size_bytes(), source.file_offset_bytes + piece.range.begin);
}

std::vector<std::vector<RamExtent>> RamCopyOut::TakeExtents() {
  MutexLock lock(&mutex_);
  uint64_t packed_bytes = 0;
  for (std::vector<RamExtent>& extents : extents_) {
    std::sort(extents.begin(), extents.end(),
              [](const RamExtent& a, const RamExtent& b) { return a.ram_offset_bytes < b.ram_offset_bytes; });
    for (RamExtent& extent : extents) {
      if (writes_) break;
      extent.file_offset_bytes = packed_bytes;
      packed_bytes += extent.size_bytes;
    }
  }
  file_.Shorten(EndInFile(extents_));
  return std::move(extents_);
}

}  // namespace cpr
