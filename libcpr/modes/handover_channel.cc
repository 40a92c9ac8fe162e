#include "libcpr/modes/handover_channel.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

constexpr size_t kMaxPeerTextBytes = 2000;

// A peer's words become part of our errors and logs, which are lines.
std::string PeerText(absl::string_view text) {
  std::string line(text.substr(0, kMaxPeerTextBytes));
  std::replace_if(
      line.begin(), line.end(), [](char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); }, ' ');
  return line;
}

}  // namespace

absl::Status HandoverChannel::Send(const v1::HandoverMessage& message, absl::Span<const int> fds) {
  return Annotate(socket_.Send(message.SerializeAsString(), fds), "cpr channel");
}

absl::StatusOr<Received> HandoverChannel::Receive() {
  absl::StatusOr<Packet> packet = socket_.Receive();
  if (!packet.ok()) return Annotate(packet.status(), "cpr channel");
  if (packet->eof) return absl::AbortedError("cpr channel: the other side has hung up");
  Received received;
  received.fds = std::move(packet->fds);
  if (!received.message.ParseFromString(packet->bytes) ||
      received.message.kind_case() == v1::HandoverMessage::KIND_NOT_SET) {
    return absl::DataLossError("cpr channel: what came is not a message of a handover");
  }
  if (received.message.has_failure()) {
    return absl::AbortedError(absl::StrCat("the other side: ", PeerText(received.message.failure().error())));
  }
  return received;
}

v1::HandoverMessage FailureMessage(const absl::Status& why) {
  v1::HandoverMessage message;
  message.mutable_failure()->set_error(std::string(why.message()));
  return message;
}

v1::HandoverMessage HelloMessage(v1::HandoverMode mode, const std::vector<SectionInfo>& sections, bool check_only) {
  v1::HandoverMessage message;
  v1::Hello* hello = message.mutable_hello();
  hello->set_protocol_version(kProtocolVersion);
  hello->set_mode(mode);
  hello->set_check_only(check_only);
  for (const SectionInfo& section : sections) {
    v1::SectionClaim* claim = hello->add_sections();
    claim->set_name(section.name);
    claim->set_instance(section.instance);
    claim->set_version(section.version);
    claim->set_min_reader_version(section.min_reader_version);
    claim->set_optional(section.optional);
  }
  return message;
}

std::vector<SectionInfo> SectionsOfHello(const v1::Hello& hello) {
  std::vector<SectionInfo> sections;
  for (const v1::SectionClaim& claim : hello.sections()) {
    SectionInfo& section = sections.emplace_back();
    section.name = claim.name();
    section.instance = claim.instance();
    section.version = claim.version();
    section.min_reader_version = claim.min_reader_version();
    section.optional = claim.optional();
  }
  return sections;
}

absl::Status CheckProtocolVersion(uint32_t version, absl::string_view whose) {
  if (version >= kOldestProtocolVersion && version <= kProtocolVersion) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat(whose, " speaks version ", version,
                                            " of the handover protocol, this program ", kOldestProtocolVersion, " to ",
                                            kProtocolVersion));
}

v1::HandoverMessage HelloReplyMessage(const absl::Status& answer) {
  v1::HandoverMessage message;
  message.mutable_hello_reply()->set_protocol_version(kProtocolVersion);
  if (!answer.ok()) message.mutable_hello_reply()->set_error(std::string(answer.message()));
  return message;
}

absl::Status ReadHelloReply(const v1::HandoverMessage& message) {
  if (!message.has_hello_reply()) return absl::DataLossError("the new side answered the check with another message");
  CPR_RETURN_IF_ERROR(CheckProtocolVersion(message.hello_reply().protocol_version(), "the new side"));
  if (message.hello_reply().error().empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the new side refuses: ", PeerText(message.hello_reply().error())));
}

}  // namespace cpr
