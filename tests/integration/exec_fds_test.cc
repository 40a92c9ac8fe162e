// What crosses an execve: exactly the descriptors of the ExecSet, found again by name in the new program.

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/preserve/execve.h"
#include "libcpr/testing/child_process.h"
#include "libcpr/testing/fd_leak_guard.h"
#include "libcpr/testing/helper.h"

namespace cpr {
namespace {

using ::cpr::testing::ChildProcess;
using ::cpr::testing::HelperCommand;
using ::cpr::testing::OpenFds;

void Exec(std::vector<std::string> command) {
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
}

int Fail(const char* what, const absl::Status& status) {
  std::fprintf(stderr, "%s: %s\n", what, status.ToString().c_str());
  return 1;
}

UniqueFd Memfd(const char* name, const std::string& content) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!PwriteAll(fd.get(), content, 0).ok()) return UniqueFd();
  return fd;
}

// The old program: args are none. Keeps two fds and the state, and has several more that must not cross.
CPR_TEST_HELPER(ExecOld, (const std::vector<std::string>&)) {
  std::vector<std::string> before;
  for (const auto& [fd, target] : OpenFds()) before.push_back(std::to_string(fd));
  FdTable table;
  UniqueFd ram = Memfd("ram", "guest");
  if (auto s = table.Add("ram0", 0, FdKind::kMemfd, std::move(ram)); !s.ok()) return Fail("ram", s);
  if (auto s = table.Add("kick", 3, FdKind::kEventfd, UniqueFd(::eventfd(5, EFD_NONBLOCK))); !s.ok())
    return Fail("kick", s);
  const UniqueFd others[] = {UniqueFd(::eventfd(0, EFD_CLOEXEC)), UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC))};
  const auto manifest = DescribeExecFds(table);
  if (!manifest.ok()) return Fail("describe", manifest.status());
  const UniqueFd state = Memfd("state", manifest->SerializeAsString());
  std::vector<int> kept = table.fds();
  kept.push_back(state.get());
  ExecSet set(kept);
  if (auto s = set.Arm(); !s.ok()) return Fail("arm", s);
  before.insert(before.begin(), std::to_string(state.get()));
  Exec(HelperCommand("ExecNew", before));
  return 1;
}

// The new program: args are the state's number and the numbers that were open at the start of the old one.
CPR_TEST_HELPER(ExecNew, (const std::vector<std::string>& args)) {
  const UniqueFd state(std::atoi(args[0].c_str()));
  const auto bytes = ReadToEnd(state.get(), 1 << 20);  // the offset came over at 0: pwrite does not move it
  v1::ExecManifest manifest;
  if (!bytes.ok() || !manifest.ParseFromString(*bytes)) return Fail("state", bytes.status());

  std::set<int> expected = {state.get()};
  for (size_t i = 1; i < args.size(); ++i) expected.insert(std::atoi(args[i].c_str()));
  for (const int fd : ExecFdNumbers(manifest)) expected.insert(fd);
  for (const auto& [fd, target] : OpenFds()) {
    if (expected.erase(fd) == 0) return Fail("crossed uninvited", absl::InternalError(target));
  }
  if (!expected.empty()) return Fail("lost", absl::InternalError(std::to_string(*expected.begin())));

  auto table = AdoptExecFds(manifest);
  if (!table.ok()) return Fail("adopt", table.status());
  const auto ram = table->Take("ram0", 0, FdKind::kMemfd);
  const auto kick = table->Take("kick", 3, FdKind::kEventfd);
  if (!ram.ok() || !kick.ok()) return Fail("take", ram.ok() ? kick.status() : ram.status());
  char guest[5];
  uint64_t kicks = 0;
  if (!PreadAll(ram->get(), guest, sizeof(guest), 0).ok() || std::string(guest, 5) != "guest") return 2;
  if (::read(kick->get(), &kicks, sizeof(kicks)) != sizeof(kicks) || kicks != 5) return 3;
  for (const int fd : {ram->get(), kick->get()}) {
    if ((::fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0) return 4;
  }
  return (::fcntl(kick->get(), F_GETFL) & O_NONBLOCK) != 0 ? 0 : 5;
}

TEST(ExecFdsTest, ExactlyTheKeptOnesCross) { EXPECT_EQ(ChildProcess(HelperCommand("ExecOld")).Wait(), 0); }

}  // namespace
}  // namespace cpr
