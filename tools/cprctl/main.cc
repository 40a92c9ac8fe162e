// cprctl: looks at what libcpr leaves behind.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/vmstate/state_header.h"
#include "tools/cprctl/inspect.h"

namespace cpr {
namespace {

constexpr char kUsage[] =
    "usage: cprctl inspect FILE\n"
    "\n"
    "  inspect  prints a saved state's header, ownership word and sections, and checks every checksum.\n"
    "           Exit code 0: whole and readable; 1: not; 2: wrong usage.\n";

// What there is of `path`, but of something that is no state, or too large for one, only the beginning.
absl::StatusOr<std::string> ReadState(const std::string& path) {
  CPR_ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path, O_RDONLY | O_NONBLOCK));
  struct stat file;
  if (::fstat(fd.get(), &file) != 0) return ErrnoStatus(errno, "fstat");
  if (!S_ISREG(file.st_mode)) return absl::InvalidArgumentError("is not a regular file");
  const uint64_t size = static_cast<uint64_t>(file.st_size);
  std::string bytes(std::min<uint64_t>(size, kFixedHeaderBytes), '\0');
  CPR_RETURN_IF_ERROR(PreadAll(fd.get(), bytes.data(), bytes.size(), 0));
  CPR_RETURN_IF_ERROR(ParseStateHeader(bytes).status());
  bytes.resize(std::min(size, kMaxTotalBytes));
  CPR_RETURN_IF_ERROR(PreadAll(fd.get(), bytes.data(), bytes.size(), 0));
  return bytes;
}

absl::Status Inspect(const std::string& path) {
  CPR_ASSIGN_OR_RETURN(const std::string bytes, ReadState(path));
  std::string text;
  absl::Status status = InspectState(bytes, &text);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  return status;
}

}  // namespace
}  // namespace cpr

int main(int argc, char** argv) {
  if (argc != 3 || std::string(argv[1]) != "inspect") {
    std::fputs(cpr::kUsage, stderr);
    return 2;
  }
  const absl::Status status = cpr::Inspect(argv[2]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "cprctl: %s\n", std::string(cpr::Annotate(status, argv[2]).message()).c_str());
  return 1;
}
