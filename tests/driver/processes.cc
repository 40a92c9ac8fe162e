#include "tests/driver/processes.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace cpr {
namespace {

constexpr absl::Duration kLookInterval = absl::Milliseconds(1);

struct Process {
  pid_t parent = -1;
  std::string name;
};

// "PID (NAME) STATE PARENT ...", where NAME may hold anything.
bool ReadStat(const std::string& path, Process& process) {
  std::ifstream file(path);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const size_t begin = text.find('(');
  const size_t end = text.rfind(')');
  if (begin == std::string::npos || end == std::string::npos) return false;
  process.name = text.substr(begin + 1, end - begin - 1);
  std::string state;
  return static_cast<bool>(std::istringstream(text.substr(end + 1)) >> state >> process.parent);
}

std::map<pid_t, Process> AllProcesses() {
  std::map<pid_t, Process> all;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    pid_t pid = -1;
    Process process;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &pid)) continue;
    if (ReadStat(entry.path() / "stat", process)) all[pid] = std::move(process);
  }
  return all;
}

bool Descends(pid_t pid, const std::map<pid_t, Process>& all) {
  while (true) {
    const auto found = all.find(pid);
    if (found == all.end()) return false;
    if (found->second.parent == ::getpid()) return true;
    pid = found->second.parent;
  }
}

void ReapOthers(const std::set<pid_t>& found, const std::set<pid_t>& wanted) {
  for (const pid_t pid : found) {
    if (wanted.count(pid) == 0) ::waitpid(pid, nullptr, WNOHANG);
  }
}

std::string Differences(const std::set<pid_t>& found, const std::set<pid_t>& wanted) {
  const std::map<pid_t, Process> all = AllProcesses();
  std::string text;
  for (const pid_t pid : found) {
    const auto process = all.find(pid);
    if (wanted.count(pid) != 0 || process == all.end()) continue;
    absl::StrAppend(&text, " left: ", pid, " (", process->second.name, ")");
  }
  for (const pid_t pid : wanted) {
    if (found.count(pid) == 0) absl::StrAppend(&text, " lacking: ", pid);
  }
  return text;
}

}  // namespace

void AdoptOrphans() { ::prctl(PR_SET_CHILD_SUBREAPER, 1UL, 0UL, 0UL, 0UL); }

std::set<pid_t> Descendants() {
  const std::map<pid_t, Process> all = AllProcesses();
  std::set<pid_t> descendants;
  for (const auto& [pid, process] : all) {
    if (Descends(pid, all)) descendants.insert(pid);
  }
  return descendants;
}

absl::StatusOr<pid_t> ChildOfName(pid_t parent, const std::string& name) {
  for (const auto& [pid, process] : AllProcesses()) {
    if (process.parent == parent && process.name == name) return pid;
  }
  return absl::NotFoundError(absl::StrCat("process ", parent, " has no child '", name, "'"));
}

absl::Status AwaitDescendants(const std::set<pid_t>& wanted, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  for (;;) {
    const std::set<pid_t> found = Descendants();
    if (found == wanted) return absl::OkStatus();
    if (absl::Now() > deadline)
      return absl::DeadlineExceededError(absl::StrCat("processes", Differences(found, wanted)));
    ReapOthers(found, wanted);
    absl::SleepFor(kLookInterval);
  }
}

}  // namespace cpr
