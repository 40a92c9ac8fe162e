#ifndef LIBCPR_PRESERVE_LIVE_UPDATE_H_
#define LIBCPR_PRESERVE_LIVE_UPDATE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/ioctl_function.h"
#include "libcpr/base/unique_fd.h"

// Descriptors that outlive the kernel: Linux's Live Update Orchestrator (Linux 6.19) keeps memfds, with what is in
// them, over a kexec. They are put into a session, which has a name to find it by and gives each of them a token of the
// user's choice.
//
//   old kernel                                  new kernel
//   LiveUpdate::Open, CreateSession             LiveUpdate::Open, RetrieveSession
//   PreserveFd; the guest may run on            RetrieveFd of each token
//   hold the session until the kernel goes      the guest is safe here: Finish
//
// Both kernels have to be started with kho=on liveupdate=on, the second by kexec_file_load(2) and
// reboot(LINUX_REBOOT_CMD_KEXEC). The session is an ordinary descriptor, which other processes may hold as well.
// Source: Linux, include/uapi/linux/liveupdate.h, Documentation/userspace-api/liveupdate.rst, mm/memfd_luo.c.

namespace cpr {

// A named set of descriptors that the next kernel gets, or that the one before has left. It exists while some process
// has it open: closing the last descriptor of one that was created means that nothing is preserved; of one that was
// retrieved, what Finish means. Thread-compatible. Errors name the session and the request that the kernel refused, and
// carry errno where they are the kernel's own.
class LiveUpdateSession {
 public:
  // One that another process has created or retrieved. `name` is for errors; the fd's owner knows it. Calls nothing. An
  // empty `ioctl` is the kernel's.
  static LiveUpdateSession Adopt(UniqueFd fd, std::string name, IoctlFunction ioctl = {});

  int fd() const { return fd_.get(); }  // lent
  const std::string& name() const { return name_; }

  // Has the next kernel get the file of `fd` (lent: the kernel keeps the file) by `token`. Of a memfd all pages are
  // allocated and pinned, which takes its time, and its size is fixed from here on, while reading and writing go on:
  // what is written before the kernel goes is preserved. Position and seals are kept, but seals not by the first
  // kernels that offered this. kUnimplemented, naming the fd: it is none that this kernel can preserve; Linux 7.2 takes
  // memfds without huge pages and nothing else. kAlreadyExists: the token is taken. kFailedPrecondition: the
  // file is in a session already.
  absl::Status PreserveFd(int fd, uint64_t token);

  // The file that the kernel before had by `token`; the same one if asked again. With CLOEXEC.
  // kNotFound: there was none.
  absl::StatusOr<UniqueFd> RetrieveFd(uint64_t token);

  // Ends a retrieved session: what was retrieved lives on by its descriptors, everything else is freed.
  absl::Status Finish();

 private:
  LiveUpdateSession(UniqueFd fd, std::string name, IoctlFunction ioctl);
  absl::Status Call(unsigned long request, absl::string_view request_name, void* argument) const;  // NOLINT
  std::string Text() const;

  UniqueFd fd_;
  std::string name_;
  IoctlFunction ioctl_;
};

// /dev/liveupdate, which one process at a time may have open; sessions live on when it is closed, and it should be, for
// others want it, too. Thread-compatible.
class LiveUpdate {
 public:
  static constexpr char kPath[] = "/dev/liveupdate";
  static constexpr size_t kMaxNameBytes = 63;

  // kUnimplemented: this host has none. kUnavailable: another program has it open. kDataLoss: the kernel cannot read
  // what the one before has left, all of which is lost.
  static absl::StatusOr<LiveUpdate> Open(const std::string& path = kPath);
  // An open one. Calls nothing. An empty `ioctl` is the kernel's.
  static LiveUpdate Adopt(UniqueFd fd, IoctlFunction ioctl = {});

  // A session for the next kernel, empty. `name` has 1 to 63 bytes, none of them 0: else kInvalidArgument.
  // kAlreadyExists: there is one of this name.
  absl::StatusOr<LiveUpdateSession> CreateSession(absl::string_view name);

  // The session that the kernel before has left by this name. kNotFound: there is none. kFailedPrecondition: it was
  // retrieved already, and a process still has it open.
  absl::StatusOr<LiveUpdateSession> RetrieveSession(absl::string_view name);

 private:
  LiveUpdate(UniqueFd fd, IoctlFunction ioctl);
  absl::StatusOr<LiveUpdateSession> Named(unsigned long request, absl::string_view request_name,  // NOLINT
                                          absl::string_view name);

  UniqueFd fd_;
  IoctlFunction ioctl_;
};

}  // namespace cpr

#endif  // LIBCPR_PRESERVE_LIVE_UPDATE_H_
