#ifndef VMM_SANDBOX_SANDBOX_H_
#define VMM_SANDBOX_SANDBOX_H_

#include "absl/status/status.h"
#include "vmm/options/sandbox_option.h"

namespace cpr {

// -sandbox on: from here on this process, all of its threads and whatever it executes make system calls from a list
// only, and gain no privileges by execve (PR_SET_NO_NEW_PRIVS). There is no way back.
//
//  * What is dangerous (ptrace, process_vm_*, mount, modules, kexec, bpf, keys, namespaces, set*id, ...) is EPERM.
//  * What is on no list is ENOSYS, as on a kernel that lacks it: libraries, and commands of exec:, have something to
//    fall back on then. Nothing is killed: a call that a new library makes for the first time after months must not
//    cost a guest its life, and a call that is refused does no more harm than one that is killed for.
//  * The list has what every handover needs, and what commands like gzip, cat or ssh do: a filter survives execve, so
//    the next program starts under it. A program that finds itself under the same filter adds none, so that filters do
//    not pile up from one cpr-exec to the next.
//
// Does nothing unless `option.on`. Errors carry errno; then nothing is restricted, or not all of it. To be called on
// the main thread, before other threads use the environment.
absl::Status EnterSandbox(const SandboxOption& option);

// Whether this program started under such a sandbox, by execve. Costs next to nothing.
bool StartedInSandbox();

}  // namespace cpr

#endif  // VMM_SANDBOX_SANDBOX_H_
