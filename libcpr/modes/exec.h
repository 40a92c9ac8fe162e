#ifndef LIBCPR_MODES_EXEC_H_
#define LIBCPR_MODES_EXEC_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/modes/incoming.h"
#include "libcpr/modes/outgoing.h"

// cpr-exec: one process, one PID. State and fds go into memfds, execve puts another program in this one's place.
//
//  * check: the new program is asked first, in a child process, whether it can read every section.
//  * prepare: a keeper (libcpr/preserve/keeper.h) is started. It holds the old memory while execve runs, so that its
//    teardown is not in the pause.
//  * Should the new program fail to restore, it execs the old one again, kept as an fd, which takes the same state.
//    Should it, or the old one, be killed once the state is whole, the keeper does. The guest survives a bad update.
//
// A program that can be the new one does this first in its main:
//
//   if (cpr::AnswerExecCheckIfAsked(supported)) return 0;                       // it was only a question
//   auto handoff = cpr::ExecHandoff::FromEnvironment();                         // null: an ordinary start
//   ... parse options; on an error with a handoff: handoff->ReturnToOldProgram(error) ...
//   auto incoming = cpr::CreateExecIncoming(*std::move(handoff), {}, &vm);

namespace cpr {

struct ExecOutgoingOptions {
  // argv of the new program, or of a prefix command (numactl, strace, a script) that execs it; looked up in PATH.
  std::vector<std::string> command;
  // argv of this program, to come back with.
  std::vector<std::string> own_argv;
  // Where the state goes: a file of the user's, opened for reading and writing, or none for a memfd.
  UniqueFd state_file;
  absl::Duration check_timeout = absl::Seconds(10);
  // What the keeper must not hold beside this process, asked when it is made, in prepare: sockets whose peers should
  // see them close, or that the new program opens again. May be null.
  std::function<std::vector<int>()> close_in_keeper;
  PhaseObserver observer;
};

// On success Advance() does not return: the process is the new program. `vm` is lent; its Release is never called.
// kInvalidArgument, in QEMU's words: no command.
absl::StatusOr<std::unique_ptr<Outgoing>> CreateExecOutgoing(ExecOutgoingOptions options, OutgoingVm* vm);

// True if this program was started only to be asked whether it can take over; it has been answered, exit now. To be
// called before anything else, above all before devices, sockets or files are touched.
bool AnswerExecCheckIfAsked(absl::Span<const SectionSupport> supported);

// What the program before left for this one: the state, the fds, the way back. Owns all of it. Thread-compatible.
class ExecHandoff {
 public:
  // Null if this program was started in the ordinary way. All fds are CLOEXEC from here on.
  static absl::StatusOr<std::unique_ptr<ExecHandoff>> FromEnvironment();

  // Why this very program got its guest back, if it did: the handover to another program failed.
  const std::optional<std::string>& returned_because() const { return returned_because_; }

  // Execs the program before with the same state; it is told `why`. Returns only if that cannot be.
  absl::Status ReturnToOldProgram(const absl::Status& why);

 private:
  friend class ExecIncomingImpl;
  ExecHandoff() = default;

  UniqueFd state_;
  UniqueFd keeper_;
  pid_t keeper_pid_ = -1;
  std::optional<std::string> returned_because_;
  bool by_keeper_ = false;
};

// The new side of an exec.
class ExecIncoming : public Incoming {
 public:
  // The keeper, -1 if there is none. Once the guest runs it has been told to go, and becomes a zombie when it has freed
  // the old memory: the embedder reaps it (ReapKeeper, when a pidfd of it is readable).
  virtual pid_t keeper_pid() const = 0;

 protected:
  using Incoming::Incoming;
};

struct ExecIncomingOptions {
  PhaseObserver observer;
};

// Takes the guest from `handoff`. An error of Advance() comes only if the way back is barred, too: otherwise the
// process is the old program again.
absl::StatusOr<std::unique_ptr<ExecIncoming>> CreateExecIncoming(std::unique_ptr<ExecHandoff> handoff,
                                                                 ExecIncomingOptions options, IncomingVm* vm);

}  // namespace cpr

#endif  // LIBCPR_MODES_EXEC_H_
