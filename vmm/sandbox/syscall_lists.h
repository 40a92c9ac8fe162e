#ifndef VMM_SANDBOX_SYSCALL_LISTS_H_
#define VMM_SANDBOX_SYSCALL_LISTS_H_

#include "absl/types/span.h"

// System calls by what they are for. Only sandbox.cc and its test use this.

namespace cpr {

// Memory, threads, signals, time, waiting, asking about oneself.
absl::Span<const char* const> BaseSyscalls();
// Files, pipes and sockets that the user's own rights are enough for.
absl::Span<const char* const> FileSyscalls();
absl::Span<const char* const> SocketSyscalls();
// New processes and programs.
absl::Span<const char* const> SpawnSyscalls();
// QEMU's resourcecontrol.
absl::Span<const char* const> ResourceSyscalls();
// EPERM, by name.
absl::Span<const char* const> DangerousSyscalls();

}  // namespace cpr

#endif  // VMM_SANDBOX_SYSCALL_LISTS_H_
