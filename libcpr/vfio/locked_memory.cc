#include "libcpr/vfio/locked_memory.h"

#include <sys/resource.h>

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_util.h"

namespace cpr::vfio {
namespace {

std::string Limit() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
    return "RLIMIT_MEMLOCK is not limited: the host lacks memory";
  }
  return absl::StrCat("RLIMIT_MEMLOCK is ", limit.rlim_cur, " bytes: raise it (ulimit -l), or give CAP_IPC_LOCK");
}

}  // namespace

absl::Status ExplainLockedMemory(const absl::Status& status, uint64_t wanted_bytes) {
  if (StatusErrno(status) == EFAULT) {
    return Annotate(status,
                    "the kernel cannot pin all of that memory (is its file as long? are there huge pages to spare? may "
                    "memory of that kind be pinned for long?)");
  }
  if (StatusErrno(status) != ENOMEM) return status;
  const std::string wanted = wanted_bytes == 0 ? "" : absl::StrCat(", ", wanted_bytes, " bytes of it");
  return Annotate(status, absl::StrCat("devices reach only locked memory", wanted, ", and ", Limit()));
}

}  // namespace cpr::vfio
