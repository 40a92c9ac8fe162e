#include "libcpr/modes/ram_mark.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

constexpr absl::string_view kMagic = "CPRMARK1";
constexpr size_t kWordOffsetBytes = 32;
constexpr size_t kMarkBytes = 4096;

std::string Encode(absl::string_view mark_id) {
  std::string bytes = absl::StrCat(kMagic, mark_id);
  bytes.resize(kMarkBytes);
  bytes[kWordOffsetBytes] = static_cast<char>(Owner::kOld);  // little-endian
  return bytes;
}

absl::Status Store(int fd, absl::string_view mark_id) {
  CPR_RETURN_IF_ERROR(WriteAll(fd, Encode(mark_id)));
  return ::fsync(fd) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "fsync");
}

// The new mark takes the place of the old one at once.
absl::StatusOr<UniqueFd> Replace(const std::string& path, absl::string_view mark_id) {
  const std::string temporary = absl::StrCat(path, ".", ::getpid(), ".tmp");
  CPR_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(temporary, O_RDWR | O_CREAT | O_EXCL));
  absl::Status status = Store(file.get(), mark_id);
  if (status.ok() && ::rename(temporary.c_str(), path.c_str()) != 0) status = ErrnoStatus(errno, "rename");
  if (status.ok()) return file;
  ::unlink(temporary.c_str());
  return Annotate(status, path);
}

}  // namespace

absl::StatusOr<std::string> NewMarkId() {
  std::string id(kMarkIdBytes, '\0');
  if (::getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size())) return ErrnoStatus(errno, "getrandom");
  return id;
}

std::string RamMarkPath(absl::string_view ram_path) { return absl::StrCat(ram_path, ".cpr-mark"); }

std::string MarkedRamPath(const v1::RamState& ram) {
  for (const v1::RamState::Block& block : ram.blocks()) {
    if (block.layout().shared() && !block.layout().path().empty()) return block.layout().path();
  }
  return "";
}

absl::StatusOr<Ownership> CreateRamMark(absl::string_view ram_path, absl::string_view mark_id) {
  struct stat info;
  // The folder of a device does not outlive the host's kernel, as the RAM on it does.
  if (::stat(std::string(ram_path).c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat("a state whose RAM stays on ", ram_path,
                                                      " cannot go into a stream, which may be read twice: ",
                                                      "there is no place for a mark beside a device; use file:"));
  }
  const std::string path = RamMarkPath(ram_path);
  const absl::StatusOr<UniqueFd> file = Replace(path, mark_id);
  if (!file.ok()) {
    return Annotate(file.status(), absl::StrCat("a state that goes into a stream, which may be read twice, needs a ",
                                                "mark beside its RAM, or use file:"));
  }
  return Ownership::Map(file->get(), kWordOffsetBytes, /*sealed=*/false);
}

absl::StatusOr<Ownership> OpenRamMark(absl::string_view ram_path, absl::string_view mark_id) {
  const std::string path = RamMarkPath(ram_path);
  const absl::StatusOr<UniqueFd> file = OpenFile(path, O_RDWR | O_NOFOLLOW);
  if (!file.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, ": the mark that says whether the guest was resumed already is not there: ", file.status().message()));
  }
  std::string bytes(kMagic.size() + kMarkIdBytes, '\0');
  CPR_RETURN_IF_ERROR(Annotate(PreadAll(file->get(), bytes.data(), bytes.size(), 0), path));
  if (bytes.substr(0, kMagic.size()) != kMagic)
    return absl::DataLossError(absl::StrCat(path, ": not the mark of a state"));
  if (bytes.substr(kMagic.size()) != mark_id) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": the mark of another state, saved later; the RAM has moved on since this one"));
  }
  return Ownership::Map(file->get(), kWordOffsetBytes, /*sealed=*/false);
}

}  // namespace cpr
