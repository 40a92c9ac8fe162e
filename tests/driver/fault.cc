#include "tests/driver/fault.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

namespace cpr {
namespace {

constexpr char kVariable[] = "CPR_FAULT";
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
