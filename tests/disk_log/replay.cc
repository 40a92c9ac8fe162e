// replay LOG: says how many entries there are.
// replay LOG DISK COUNT SEED: makes DISK, a file of zeros, what it would be if the power had failed behind COUNT of
// them.

#include <fcntl.h>

#include <cstdio>
#include <string>

#include "absl/strings/numbers.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "tests/disk_log/disk_log.h"

namespace cpr {
namespace {

absl::Status Main(int argc, char** argv) {
  uint64_t count = 0, seed = 0;
  if (argc != 2 && (argc != 5 || !absl::SimpleAtoi(argv[3], &count) || !absl::SimpleAtoi(argv[4], &seed))) {
    return absl::InvalidArgumentError("usage: replay LOG [DISK COUNT SEED]");
  }
  CPR_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(argv[1], O_RDONLY));
  CPR_ASSIGN_OR_RETURN(const DiskLog log, DiskLog::Read(file.get()));
  if (argc == 2) return std::printf("%zu\n", log.size()) > 0 ? absl::OkStatus() : absl::DataLossError("stdout");
  CPR_ASSIGN_OR_RETURN(const UniqueFd disk, OpenFile(argv[2], O_WRONLY));
  return log.Replay(count, seed, disk.get());
}

}  // namespace
}  // namespace cpr

int main(int argc, char** argv) {
  const absl::Status status = cpr::Main(argc, argv);
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
