#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include "vmm/machine/machine.h"

namespace cpr {
namespace {

// Room for 64 vCPUs and some hundred eventfds. One page of pointers more costs nothing.
constexpr rlim_t kFds = 1024;

}  // namespace

void GrowFdTable() {
  rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == 0) return;
  const int highest = static_cast<int>(std::min(limit.rlim_cur, kFds)) - 1;
  if (const int fd = ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, highest); fd >= 0) ::close(fd);
}

}  // namespace cpr
