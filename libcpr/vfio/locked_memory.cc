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
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return "not limited";
  return absl::StrCat(limit.rlim_cur, " bytes");
}

}  // namespace

absl::Status ExplainLockedMemory(const absl::Status& status) {
  if (StatusErrno(status) != ENOMEM) return status;
  return Annotate(status, absl::StrCat("devices reach only locked memory, and RLIMIT_MEMLOCK is ", Limit()));
}

}  // namespace cpr::vfio
