#include "libcpr/modes/state_memfd.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/vmstate/container.h"

namespace cpr {

absl::StatusOr<UniqueFd> CreateStateMemfd() {
  UniqueFd fd(::memfd_create("cpr-state", MFD_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus(errno, "memfd_create for the state");
  return fd;
}

absl::StatusOr<std::string> ReadContainer(int fd, uint64_t offset_bytes) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return ErrnoStatus(errno, "fstat of the state");
  const uint64_t size_bytes = info.st_size < 0 ? 0 : static_cast<uint64_t>(info.st_size);
  const uint64_t have_bytes = size_bytes - std::min(size_bytes, offset_bytes);
  std::string bytes(std::min<uint64_t>(have_bytes, kHeaderBytes), '\0');
  CPR_RETURN_IF_ERROR(PreadAll(fd, bytes.data(), bytes.size(), offset_bytes));
  CPR_ASSIGN_OR_RETURN(const StateHeader header, ContainerReader::ParseHeader(bytes));
  const uint64_t total_bytes = header.total_bytes();
  if (total_bytes > have_bytes) {
    return absl::DataLossError(absl::StrCat("the state is cut: ", have_bytes, " of ", total_bytes, " bytes"));
  }
  bytes.resize(total_bytes);
  CPR_RETURN_IF_ERROR(PreadAll(fd, bytes.data(), bytes.size(), offset_bytes));
  return bytes;
}

absl::StatusOr<std::string> EncodeContainer(const SectionRegistry& sections, Stage stage) {
  std::string bytes;
  ContainerWriter writer(&bytes);
  CPR_RETURN_IF_ERROR(SaveSections(sections, stage, writer));
  CPR_RETURN_IF_ERROR(writer.Finish());
  return bytes;
}

}  // namespace cpr
