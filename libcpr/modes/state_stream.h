#ifndef LIBCPR_MODES_STATE_STREAM_H_
#define LIBCPR_MODES_STATE_STREAM_H_

#include <cstdint>
#include <deque>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/unique_fd.h"

// A state on its way through a pipe, a socket or an open file. Both ends take what they can and return, so that an
// event loop stays in charge. SIGPIPE is never raised.

namespace cpr {

// The sending end. Thread-compatible.
class StateStreamWriter {
 public:
  // Non-blocking, unless it is a regular file.
  explicit StateStreamWriter(UniqueFd stream) : stream_(std::move(stream)) {}
  int fd() const { return stream_.get(); }

  // `bytes` are lent until they are written.
  void Append(absl::string_view bytes);
  // Writes what it can, some MiB at most; true when nothing is left. kAborted: nobody reads any more.
  absl::StatusOr<bool> Pump();
  uint64_t written_bytes() const { return written_bytes_; }

  // Ends the stream. Bytes in a regular file are on the disk when this returns.
  absl::Status Close();

 private:
  UniqueFd stream_;
  std::deque<absl::string_view> pending_;
  uint64_t written_bytes_ = 0;
};

// The receiving end: gathers the whole stream in a memfd, which then is a state file as cpr-reboot reads it. Zero pages
// are left out as holes. How long a stream may be follows from what it says itself, once that has been checked: from
// its header the size of the container, from the container where its RAM ends. Thread-compatible.
class StateStreamReader {
 public:
  // Non-blocking, unless it is a regular file.
  static absl::StatusOr<StateStreamReader> Create(UniqueFd stream);
  int fd() const { return stream_.get(); }

  // Reads what there is, some MiB at most; true at the stream's end, which is then where the state ends. Errors, in
  // which this is final: the container's own; kDataLoss: it ended early, or goes on; kResourceExhausted: it speaks of
  // more RAM than this host has.
  absl::StatusOr<bool> Pump();

  // Whether the stream has ended, well or not.
  bool ended() const { return ended_; }
  // The state; lent.
  int state_fd() const { return state_.get(); }

 private:
  enum class At { kHeader, kContainer, kRam };

  StateStreamReader(UniqueFd stream, UniqueFd state) : stream_(std::move(stream)), state_(std::move(state)) {}
  // Goes on to what the bytes so far tell of the rest, whenever all of end_bytes_ are here.
  absl::Status ReadOn();
  absl::Status Store(absl::string_view bytes);
  absl::Status EndOfStream();

  UniqueFd stream_;
  UniqueFd state_;
  At at_ = At::kHeader;
  uint64_t have_bytes_ = 0;
  uint64_t end_bytes_ = 0;  // of what is known to come; 0 before the first read
  bool ended_ = false;
  std::string buffer_;
};

}  // namespace cpr

#endif  // LIBCPR_MODES_STATE_STREAM_H_
