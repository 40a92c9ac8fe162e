#ifndef LIBCPR_BASE_IO_H_
#define LIBCPR_BASE_IO_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/unique_fd.h"

// Whole reads and writes on blocking descriptors. EINTR is retried; every error carries errno. All fds are lent.

namespace cpr {

absl::Status WriteAll(int fd, absl::string_view data);

// write(2) once, but a pipe or socket without a reader gives EPIPE and never SIGPIPE, whatever the process does with
// that signal. Returns what write(2) does, and errno.
ssize_t WriteWithoutSignal(int fd, absl::string_view data);

absl::Status PwriteAll(int fd, absl::string_view data, uint64_t offset_bytes);

// Reads `size_bytes` exactly. kDataLoss when the file ends before.
absl::Status PreadAll(int fd, char* data, size_t size_bytes, uint64_t offset_bytes);

// Reads until the end of the stream, at most `limit_bytes`: kResourceExhausted when there is more.
absl::StatusOr<std::string> ReadToEnd(int fd, uint64_t limit_bytes);

// Opens `path` with CLOEXEC added to `flags`. The error names the path.
absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags, unsigned mode = 0600);

// Duplicates `fd` with CLOEXEC set, to a number above those of stdio.
absl::StatusOr<UniqueFd> DupFd(int fd);

// Sets or clears FD_CLOEXEC, or O_NONBLOCK.
absl::Status SetCloexec(int fd, bool on);
absl::Status SetNonblocking(int fd, bool on);

}  // namespace cpr

#endif  // LIBCPR_BASE_IO_H_
