#ifndef LIBCPR_PRESERVE_EXECVE_H_
#define LIBCPR_PRESERVE_EXECVE_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/preserve/fd_table.h"
#include "proto/cpr/v1/fds.pb.h"

namespace cpr {

// Descriptors that stay open over an execve of this process: CLOEXEC is off on exactly these from Arm() to Disarm(), so
// that a refused execve or any other roll-back leaves them as they were. The descriptors are lent and must stay open.
// Thread-compatible; a fork and exec by another thread while armed would inherit them.
//
//   ExecSet kept(table.fds());
//   CPR_RETURN_IF_ERROR(kept.Arm());
//   ::execve(...);          // returns only on error; ~ExecSet disarms
class ExecSet {
 public:
  explicit ExecSet(std::vector<int> fds) : fds_(std::move(fds)) {}
  ExecSet(const ExecSet&) = delete;
  ExecSet& operator=(const ExecSet&) = delete;
  ~ExecSet() { Disarm(); }

  // Clears CLOEXEC on all, or, on error, on none. Errors carry errno and name the number.
  absl::Status Arm();
  // Sets CLOEXEC again on those that had it. Idempotent.
  void Disarm();

 private:
  std::vector<int> fds_;
  std::vector<int> armed_;  // had CLOEXEC
};

// What the program after execve needs to find the descriptors of `table` again: goes into the state memfd.
// Errors carry errno.
absl::StatusOr<v1::ExecManifest> DescribeExecFds(const FdTable& table);

// The table that `manifest` describes, from the numbers that came over an execve of this process. CLOEXEC is set on all
// of them at once. Each is checked: still open, the same file (st_dev, st_ino), and all that FdTable::FromManifest
// checks; the error names the entry. On error every number stays open, with CLOEXEC: the program before may be
// exec'd again and needs them (ExecSet(ExecFdNumbers(manifest))). Call once.
absl::StatusOr<FdTable> AdoptExecFds(const v1::ExecManifest& manifest);

// The numbers in `manifest`, those above INT_MAX left out.
std::vector<int> ExecFdNumbers(const v1::ExecManifest& manifest);

}  // namespace cpr

#endif  // LIBCPR_PRESERVE_EXECVE_H_
