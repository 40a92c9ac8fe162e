// Writes the golden files of a release into a folder. It refuses to overwrite: what a release wrote never changes.
#include <fcntl.h>

#include <cstdio>
#include <string>

#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "tests/golden/golden_state.h"

namespace cpr {
namespace {

absl::Status WriteNew(const std::string& path, absl::string_view bytes) {
  CPR_ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path, O_WRONLY | O_CREAT | O_EXCL, 0644));
  return WriteAll(fd.get(), bytes);
}

absl::Status WriteGolden(const std::string& folder) {
  CPR_ASSIGN_OR_RETURN(const std::string state, WriteGoldenState());
  CPR_ASSIGN_OR_RETURN(const std::string dump, DumpState(state));
  CPR_RETURN_IF_ERROR(WriteNew(folder + "/sections.cprstate", state));
  return WriteNew(folder + "/sections.txt", dump);
}

}  // namespace
}  // namespace cpr

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: write_golden FOLDER\n", stderr);
    return 2;
  }
  const absl::Status status = cpr::WriteGolden(argv[1]);
  if (!status.ok()) std::fprintf(stderr, "write_golden: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
