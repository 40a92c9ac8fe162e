#include "libcpr/modes/ownership.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/phase.h"

namespace cpr {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kWordBytes = 16;  // the word and the time of its last change
constexpr int kNeededSeals = F_SEAL_SHRINK | F_SEAL_GROW;

absl::Status CheckSize(int fd, uint64_t end_bytes) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return ErrnoStatus(errno, "fstat of the ownership word's file");
  if (info.st_size >= 0 && static_cast<uint64_t>(info.st_size) >= end_bytes) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("ownership word: its file has ", info.st_size, " bytes, needs ", end_bytes));
}

absl::Status CheckSeals(int fd) {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0) return ErrnoStatus(errno, "F_GET_SEALS of the ownership word: it is no memfd");
  if ((seals & kNeededSeals) == kNeededSeals) return absl::OkStatus();
  return absl::FailedPreconditionError("ownership word: its memfd lacks F_SEAL_SHRINK and F_SEAL_GROW");
}

}  // namespace

absl::StatusOr<Ownership> Ownership::Create() {
  UniqueFd fd(::memfd_create("cpr-ownership", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.ok()) return ErrnoStatus(errno, "memfd_create for the ownership word");
  if (::ftruncate(fd.get(), kPageBytes) != 0) return ErrnoStatus(errno, "ftruncate of the ownership word");
  if (::fcntl(fd.get(), F_ADD_SEALS, kNeededSeals | F_SEAL_SEAL) != 0)
    return ErrnoStatus(errno, "F_ADD_SEALS of the ownership word");
  CPR_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Create(fd.get(), 0, kPageBytes));
  Ownership ownership(std::move(fd), std::move(mapping), 0);
  ownership.word()->store(static_cast<uint64_t>(Owner::kOld), std::memory_order_release);
  return ownership;
}

absl::StatusOr<Ownership> Ownership::Map(int fd, uint64_t offset_bytes, bool sealed) {
  if (offset_bytes % sizeof(uint64_t) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("ownership word: offset ", offset_bytes, " is no multiple of 8"));
  }
  CPR_RETURN_IF_ERROR(CheckSize(fd, offset_bytes + kWordBytes));
  if (sealed) CPR_RETURN_IF_ERROR(CheckSeals(fd));
  const uint64_t skip_bytes = offset_bytes % kPageBytes;
  CPR_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Create(fd, offset_bytes - skip_bytes, skip_bytes + kWordBytes));
  return Ownership(UniqueFd(), std::move(mapping), skip_bytes);
}

bool Ownership::Swap(Owner from, Owner to) {
  uint64_t expected = static_cast<uint64_t>(from);
  if (!word()->compare_exchange_strong(expected, static_cast<uint64_t>(to), std::memory_order_acq_rel)) return false;
  changed_at()->store(RealtimeNs(), std::memory_order_relaxed);
  return true;
}

absl::Status CheckOffered(const Ownership& ownership) {
  const std::string at =
      absl::FormatTime(absl::FromUnixNanos(ownership.changed_at_realtime_ns()), absl::LocalTimeZone());
  switch (ownership.owner()) {
    case Owner::kOffered:
      return absl::OkStatus();
    case Owner::kNew:
      return absl::FailedPreconditionError(
          absl::StrCat("the guest was resumed from this state already, at ", at, "; its RAM has moved on since"));
    case Owner::kOld:
      return absl::FailedPreconditionError(
          absl::StrCat("the old VMM took its guest back, at ", at, "; its RAM has moved on since"));
    case Owner::kReturned:
    case Owner::kUnspecified:
      break;
  }
  return absl::DataLossError("the ownership word says nothing: the state was never finished");
}

}  // namespace cpr
