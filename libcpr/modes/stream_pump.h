#ifndef LIBCPR_MODES_STREAM_PUMP_H_
#define LIBCPR_MODES_STREAM_PUMP_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/unique_fd.h"

// The main channel: a stream that carries a 16-byte token and then one container. The token went by the cpr channel,
// whose peer is known; it proves that a stream, which anybody may have connected, is of the same peer.

namespace cpr {

constexpr size_t kMainTokenBytes = 16;

// The sending end. Thread-compatible.
class StreamSender {
 public:
  // Takes a non-blocking stream that may still be connecting.
  explicit StreamSender(UniqueFd stream) : stream_(std::move(stream)) {}
  int fd() const { return stream_.get(); }

  void Append(absl::string_view bytes) { pending_.append(bytes.data(), bytes.size()); }
  // Writes what it can; true when nothing is left.
  absl::StatusOr<bool> Pump();

 private:
  UniqueFd stream_;
  std::string pending_;
  size_t sent_bytes_ = 0;
};

// The receiving end. Thread-compatible.
class StreamReceiver {
 public:
  StreamReceiver(UniqueFd stream, std::string token) : stream_(std::move(stream)), token_(std::move(token)) {}
  int fd() const { return stream_.get(); }

  // Reads what there is; true when the container is whole. kPermissionDenied: the token is another's. kDataLoss: the
  // stream ended before the container did. Errors of the container's header as ContainerReader::ParseHeader's.
  absl::StatusOr<bool> Pump();
  // Whether the stream has proven whose it is.
  bool token_seen() const { return token_seen_; }
  std::string TakeContainer() { return std::move(bytes_); }

 private:
  // How many bytes make up what is read now: the token, the header, the container.
  absl::StatusOr<size_t> WantedBytes() const;

  UniqueFd stream_;
  std::string token_;
  bool token_seen_ = false;
  std::string bytes_;
};

}  // namespace cpr

#endif  // LIBCPR_MODES_STREAM_PUMP_H_
