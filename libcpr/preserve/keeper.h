#ifndef LIBCPR_PRESERVE_KEEPER_H_
#define LIBCPR_PRESERVE_KEEPER_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// What the keeper does when the main process dies before the guest runs again. All of it is copied, but `word`.
struct KeeperOptions {
  char* const* argv = nullptr;  // of the old program, to be exec'd again; nullptr-terminated
  char* const* envp = nullptr;
  int exe_fd = -1;  // the old program itself; lent
  // The ownership word, in a shared mapping that stays. The keeper takes the guest if it can change `expected` into
  // `desired`, and is gone otherwise.
  std::atomic<uint64_t>* word = nullptr;
  uint64_t expected = 0;
  uint64_t desired = 0;
  std::vector<int> close_in_keeper;  // must not be held twice, e.g. because opening them is exclusive
  std::vector<int> keep_open;  // what the old program finds open when it is exec'd again; open when Start is called
};

// A child that shares this process's memory and holds a copy of its descriptors over an execve, so that neither the
// teardown of guest RAM's page tables (50 ms a GiB) nor that of the old KVM happens before the guest runs again:
// kernel-facts: execve then only drops a reference. And the way back: should this process die before the new program
// reports that the guest runs, the child execs the old program, which takes the guest from the saved state.
//
//   old program:  Keeper::Start -> execve (release_fd and pid travel in the state)
//   new program:  vCPUs run -> ReleaseKeeper(release_fd, pid)
//   execve fails: ~Keeper, or Abort
//
// It makes system calls only, with all signals blocked, and lives until it is told to go or the other end of its
// socket closes. Thread-compatible.
class Keeper {
 public:
  // Makes the child, and returns when it has closed what it must not hold: some 0.1 ms. Descriptors made later are not
  // in its copy. kInvalidArgument: no argv, word or program. Else errors carry errno.
  static absl::StatusOr<Keeper> Start(const KeeperOptions& options);

  Keeper(Keeper&& other) noexcept;
  Keeper& operator=(Keeper&& other) noexcept;  // aborts the one held
  ~Keeper();                                   // Abort

  // The end to tell it by. CLOEXEC is off: it must outlive execve. Lent.
  int release_fd() const { return release_fd_.get(); }
  pid_t pid() const { return pid_; }

  // Tells the child to go, and reaps it. Errors carry errno; the child is gone then as well.
  absl::Status Abort();

  // The prepared memory that the child works with.
  struct Plan;

 private:
  Keeper(std::unique_ptr<Plan> plan, Mapping stack);

  std::unique_ptr<Plan> plan_;
  Mapping stack_;
  UniqueFd release_fd_;
  pid_t pid_ = -1;
};

// For the new program, once the guest runs. Tells the keeper of the program before to go; `release_fd` is taken. The
// keeper then frees the old memory, which takes long, and becomes a zombie to reap. Never blocks.
// kFailedPrecondition: it was gone already.
absl::Status TellKeeper(UniqueFd release_fd);

// Reaps the keeper if it has ended: true if so (or if it is no child of ours), false if it still frees memory.
absl::StatusOr<bool> ReapKeeper(pid_t pid);

// Both, waiting for its end: for a thread that has the time (50 ms a GiB).
absl::Status ReleaseKeeper(int release_fd, pid_t pid);

}  // namespace cpr

#endif  // LIBCPR_PRESERVE_KEEPER_H_
