#include "bench/copy_ways.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/phase.h"

namespace cpr {
namespace {

constexpr uint64_t kPieceBytes = 4 << 20;

absl::Status SetDirect(int fd, bool direct) {
  if (!direct || ::fcntl(fd, F_SETFL, O_DIRECT) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "O_DIRECT");
}

absl::Status WriteThrough(int fd, const TouchedRam& ram, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += kPieceBytes) {
    const uint64_t size_bytes = std::min(kPieceBytes, bytes - at);
    CPR_RETURN_IF_ERROR(PwriteAll(fd, RamBytes(ram.Mapped(), {at, at + size_bytes}), at));
  }
  return Sync(fd);
}

absl::Status ReadThrough(int fd, const TouchedRam& ram, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += kPieceBytes) {
    CPR_RETURN_IF_ERROR(
        PreadAll(fd, reinterpret_cast<char*>(ram.mapping.data()), std::min(kPieceBytes, bytes - at), at));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<RamExtent>> SaveRam(const TouchedRam& ram, int fd, const RamCopyOptions& how) {
  CPR_ASSIGN_OR_RETURN(const auto copy, RamCopyOut::Start({{"ram", ram.Mapped()}}, fd, how));
  CPR_RETURN_IF_ERROR(copy->Finish());
  return copy->TakeExtents()[0];
}

}  // namespace

absl::StatusOr<std::unique_ptr<TouchedRam>> TouchedRam::Create(uint64_t ram_bytes, uint64_t one_in) {
  auto ram = std::make_unique<TouchedRam>();
  ram->fd.Reset(::memfd_create("ram", MFD_CLOEXEC));
  if (::ftruncate(ram->fd.get(), static_cast<off_t>(ram_bytes)) != 0) return ErrnoStatus(errno, "ftruncate");
  CPR_ASSIGN_OR_RETURN(ram->mapping, Mapping::Create(ram->fd.get(), 0, ram_bytes));
  uint64_t word = 88172645463325252u;
  for (uint64_t at = 0; one_in != 0 && at < ram_bytes; at += one_in << 20) {
    for (uint64_t byte = at; byte < at + (1 << 20); byte += sizeof(word)) {
      word ^= word << 13, word ^= word >> 7, word ^= word << 17;
      std::memcpy(ram->mapping.data() + byte, &word, sizeof(word));
    }
    ram->touched_bytes += 1 << 20;
  }
  return ram;
}

absl::StatusOr<UniqueFd> NewFile(const CopyPlace& place) {
  std::string path = absl::StrCat(place.folder, "/copy_bench.XXXXXX");
  UniqueFd file(::mkostemp(path.data(), O_CLOEXEC));
  if (!file.ok()) return ErrnoStatus(errno, path);
  ::unlink(path.c_str());
  return file;
}

absl::Status Sync(int fd) { return ::fsync(fd) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "fsync"); }

absl::Status SyncAndForget(int fd) {
  CPR_RETURN_IF_ERROR(Sync(fd));
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  return absl::OkStatus();
}

bool TakesDirect(const CopyPlace& place) {
  const absl::StatusOr<UniqueFd> file = NewFile(place);
  return file.ok() && SetDirect(file->get(), true).ok();
}

absl::Status Time(int64_t* nanoseconds, absl::FunctionRef<absl::Status()> work) {
  const int64_t began = MonotonicNs();
  absl::Status status = work();
  *nanoseconds = MonotonicNs() - began;
  return status;
}

Measured DiskWrite(CopyPlace place, uint64_t one_in, bool direct) {
  return [=](int64_t* nanoseconds) -> absl::StatusOr<uint64_t> {
    CPR_ASSIGN_OR_RETURN(const auto full, TouchedRam::Create(place.ram_bytes, 1));
    CPR_ASSIGN_OR_RETURN(const UniqueFd file, NewFile(place));
    CPR_RETURN_IF_ERROR(SetDirect(file.get(), direct));
    const uint64_t bytes = full->touched_bytes / one_in;
    CPR_RETURN_IF_ERROR(Time(nanoseconds, [&] { return WriteThrough(file.get(), *full, bytes); }));
    return bytes;
  };
}

Measured DiskRead(CopyPlace place, uint64_t one_in, bool direct) {
  return [=](int64_t* nanoseconds) -> absl::StatusOr<uint64_t> {
    CPR_ASSIGN_OR_RETURN(const auto full, TouchedRam::Create(place.ram_bytes, 1));
    CPR_ASSIGN_OR_RETURN(const UniqueFd file, NewFile(place));
    const uint64_t bytes = full->touched_bytes / one_in;
    CPR_RETURN_IF_ERROR(WriteThrough(file.get(), *full, bytes));
    CPR_RETURN_IF_ERROR(SyncAndForget(file.get()));
    CPR_RETURN_IF_ERROR(SetDirect(file.get(), direct));
    CPR_RETURN_IF_ERROR(Time(nanoseconds, [&] { return ReadThrough(file.get(), *full, bytes); }));
    return bytes;
  };
}

Measured Save(CopyPlace place, uint64_t one_in, RamCopyOptions how) {
  return [=](int64_t* nanoseconds) -> absl::StatusOr<uint64_t> {
    CPR_ASSIGN_OR_RETURN(const auto ram, TouchedRam::Create(place.ram_bytes, one_in));
    CPR_ASSIGN_OR_RETURN(const UniqueFd file, NewFile(place));
    CPR_RETURN_IF_ERROR(Time(nanoseconds, [&]() -> absl::Status {
      CPR_RETURN_IF_ERROR(SaveRam(*ram, file.get(), how).status());
      return Sync(file.get());
    }));
    return ram->touched_bytes;
  };
}

Measured Load(CopyPlace place, uint64_t one_in, RamCopyOptions how) {
  return [=](int64_t* nanoseconds) -> absl::StatusOr<uint64_t> {
    CPR_ASSIGN_OR_RETURN(const auto ram, TouchedRam::Create(place.ram_bytes, one_in));
    CPR_ASSIGN_OR_RETURN(const auto back, TouchedRam::Create(place.ram_bytes, 0));
    CPR_ASSIGN_OR_RETURN(const UniqueFd file, NewFile(place));
    CPR_ASSIGN_OR_RETURN(const std::vector<RamExtent> extents, SaveRam(*ram, file.get(), how));
    CPR_RETURN_IF_ERROR(SyncAndForget(file.get()));
    std::unique_ptr<RamCopyIn> copy;
    CPR_RETURN_IF_ERROR(Time(nanoseconds, [&]() -> absl::Status {
      CPR_ASSIGN_OR_RETURN(copy, RamCopyIn::Start({{"ram", back->Mapped(), extents}}, file.get(), how));
      return copy->Finish();
    }));
    if (std::memcmp(ram->mapping.data(), back->mapping.data(), ram->mapping.size_bytes()) != 0)
      return absl::DataLossError("what came back is not what went out");
    return ram->touched_bytes;
  };
}

}  // namespace cpr
