#include "tests/driver/fault.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

namespace cpr {
namespace {

constexpr char kVariable[] = "CPR_FAULT";
constexpr char kReadsVariable[] = "CPR_READS";
constexpr int kExitCode = 3;
constexpr absl::Duration kLookInterval = absl::Microseconds(300);

std::optional<Phase> PhaseOfName(absl::string_view name) {
  for (int i = 0; i < kPhaseCount; ++i) {
    if (PhaseName(static_cast<Phase>(i)) == name) return static_cast<Phase>(i);
  }
  return std::nullopt;
}

void Act(absl::string_view action) {
  if (action == "kill") ::kill(::getpid(), SIGKILL);
  if (action == "crash") ::raise(SIGSEGV);
  if (action == "exit") ::_exit(kExitCode);
  if (action == "stop") ::kill(::getpid(), SIGSTOP);
}

}  // namespace

PhaseObserver FaultFromEnvironment() {
  const char* text = std::getenv(kVariable);
  if (text == nullptr) return nullptr;
  const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  ::unsetenv(kVariable);
  const std::optional<Phase> phase = PhaseOfName(parts.first);
  if (!phase.has_value()) {
    std::fprintf(stderr, "%s: no phase '%s'\n", kVariable, parts.first.c_str());
    std::exit(2);
  }
  const auto done = std::make_shared<bool>(false);  // the observer may be copied
  return [phase = *phase, action = parts.second, done](Phase entered) {
    if (entered == phase && !std::exchange(*done, true)) Act(action);
  };
}

std::function<void(std::vector<SectionSupport>&)> ReadsFromEnvironment() {
  const char* text = std::getenv(kReadsVariable);
  if (text == nullptr) return nullptr;
  const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
  return [name = parts.first, version = parts.second](std::vector<SectionSupport>& reads) {
    reads.erase(std::remove_if(reads.begin(), reads.end(), [&](const SectionSupport& s) { return s.name == name; }),
                reads.end());
    uint32_t number = 0;
    if (absl::SimpleAtoi(version, &number)) reads.push_back({name, number});
  };
}

std::vector<std::string> ReadsPrefix(absl::string_view section, absl::string_view version) {
  return {"/usr/bin/env", absl::StrCat(kReadsVariable, "=", section, "=", version)};
}

std::vector<std::string> FaultPrefix(Phase phase, absl::string_view action) {
  return {"/usr/bin/env", absl::StrCat(kVariable, "=", PhaseName(phase), ":", action)};
}

absl::Status AwaitStopped(pid_t pid, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (absl::Now() < deadline) {
    siginfo_t info = {};
    if (::waitid(P_PID, static_cast<id_t>(pid), &info, WSTOPPED | WNOHANG) == 0 && info.si_pid == pid) {
      return absl::OkStatus();
    }
    absl::SleepFor(kLookInterval);
  }
  return absl::DeadlineExceededError(absl::StrCat("process ", pid, " does not stop"));
}

}  // namespace cpr
