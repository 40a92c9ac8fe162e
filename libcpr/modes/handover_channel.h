#ifndef LIBCPR_MODES_HANDOVER_CHANNEL_H_
#define LIBCPR_MODES_HANDOVER_CHANNEL_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/preserve/socket.h"
#include "libcpr/vmstate/section.h"
#include "proto/cpr/v1/handover.pb.h"

namespace cpr {

// The version of the messages between the two sides. A side speaks its own and the one before.
constexpr uint32_t kProtocolVersion = 1;
constexpr uint32_t kOldestProtocolVersion = 1;

// A message and the fds that came with it, all owned.
struct Received {
  v1::HandoverMessage message;
  std::vector<UniqueFd> fds;
};

// The cpr channel: HandoverMessages over a PacketSocket. Thread-compatible, non-blocking.
class HandoverChannel {
 public:
  explicit HandoverChannel(PacketSocket socket) : socket_(std::move(socket)) {}

  int fd() const { return socket_.fd(); }

  // Sends `message` with duplicates of `fds` (lent).
  absl::Status Send(const v1::HandoverMessage& message, absl::Span<const int> fds = {});

  // kUnavailable: nothing there yet. kAborted: the peer has hung up. kDataLoss: not a message. A Failure of the peer
  // becomes kAborted with its text, "the other side: ...".
  absl::StatusOr<Received> Receive();

 private:
  PacketSocket socket_;
};

v1::HandoverMessage FailureMessage(const absl::Status& why);

// The question and the answer of the check phase.
v1::HandoverMessage HelloMessage(v1::HandoverMode mode, const std::vector<SectionInfo>& sections, bool check_only);
std::vector<SectionInfo> SectionsOfHello(const v1::Hello& hello);
absl::Status CheckProtocolVersion(uint32_t version, absl::string_view whose);
v1::HandoverMessage HelloReplyMessage(const absl::Status& answer);
// What a reply means: OK, or why not.
absl::Status ReadHelloReply(const v1::HandoverMessage& message);

}  // namespace cpr

#endif  // LIBCPR_MODES_HANDOVER_CHANNEL_H_
