#include "libcpr/testing/fd_leak_guard.h"

#include <filesystem>
#include <system_error>

namespace cpr::testing {

std::map<int, std::string> OpenFds() {
  std::map<int, std::string> fds;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;  // the iterator's own descriptor is in the listing
    const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (!gone && target.find("/fd") == std::string::npos) fds[std::stoi(entry.path().filename())] = target;
  }
  return fds;
}

void FdLeakGuard::OnTestStart(const ::testing::TestInfo&) { before_ = OpenFds(); }

void FdLeakGuard::OnTestEnd(const ::testing::TestInfo&) {
  for (const auto& [fd, target] : OpenFds()) {
    if (before_.count(fd) == 0) ADD_FAILURE() << "the test leaks fd " << fd << " (" << target << ")";
  }
}

}  // namespace cpr::testing
