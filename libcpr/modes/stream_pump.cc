#include "libcpr/modes/stream_pump.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/vmstate/container.h"

namespace cpr {

absl::StatusOr<bool> StreamSender::Pump() {
  while (sent_bytes_ < pending_.size()) {
    const absl::string_view rest = absl::string_view(pending_).substr(sent_bytes_);
    ssize_t n = ::send(stream_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == ENOTSOCK) n = WriteWithoutSignal(stream_.get(), rest);  // a pipe: fd:
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    if (n < 0) return ErrnoStatus(errno, "main channel: send");
    sent_bytes_ += static_cast<size_t>(n);
  }
  return true;
}

absl::StatusOr<size_t> StreamReceiver::WantedBytes() const {
  if (!token_seen_) return kMainTokenBytes;
  if (bytes_.size() < kHeaderBytes) return kHeaderBytes;
  CPR_ASSIGN_OR_RETURN(const StateHeader header, ContainerReader::ParseHeader(bytes_));
  return header.total_bytes();
}

absl::StatusOr<bool> StreamReceiver::Pump() {
  for (;;) {
    if (!token_seen_ && bytes_.size() == kMainTokenBytes) {
      if (bytes_ != token_)
        return absl::PermissionDeniedError("main channel: the token is not that of the cpr channel");
      token_seen_ = true;
      bytes_.clear();
    }
    CPR_ASSIGN_OR_RETURN(const size_t wanted_bytes, WantedBytes());
    const size_t have_bytes = bytes_.size();
    if (have_bytes == wanted_bytes) return true;
    bytes_.resize(wanted_bytes);
    const ssize_t n = ::read(stream_.get(), bytes_.data() + have_bytes, wanted_bytes - have_bytes);
    const int err = errno;
    bytes_.resize(have_bytes + static_cast<size_t>(n > 0 ? n : 0));
    if (n < 0 && err == EINTR) continue;
    if (n < 0 && (err == EAGAIN || err == EWOULDBLOCK)) return false;
    if (n < 0) return ErrnoStatus(err, "main channel: read");
    if (n == 0) {
      return absl::DataLossError(absl::StrCat("main channel: ended after ", bytes_.size(), " bytes of the state"));
    }
  }
}

}  // namespace cpr
