// Payloads that are one protobuf message, as most sections' are.
#ifndef LIBCPR_VMSTATE_PROTO_PAYLOAD_H_
#define LIBCPR_VMSTATE_PROTO_PAYLOAD_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/arena.h"
#include "google/protobuf/message.h"

namespace cpr {

// State is a few messages deep; a hostile payload must not choose our stack's depth.
inline constexpr int kMaxProtoDepth = 32;

// Appends `message` to `*payload`, map entries in a fixed order so that saving twice gives the same bytes.
// kResourceExhausted: it is over protobuf's 2 GiB.  kInvalidArgument: a required field is not set.
absl::Status EncodeProto(const google::protobuf::Message& message, std::string* payload);

// Parses `payload`, written as version `version`, into `*message`, which may live on an arena; `known_version` is the
// newest the reader knows. Fields that it does not know are an error at any depth unless the writer is newer: only
// then its min_reader_version has said that leaving them out loses nothing. What the values mean is for the caller
// to validate. kDataLoss names the message and the field.
absl::Status DecodeProtoInto(absl::string_view payload, uint32_t version, uint32_t known_version,
                             google::protobuf::Message* message);

template <typename T>
absl::StatusOr<T> DecodeProto(absl::string_view payload, uint32_t version, uint32_t known_version) {
  T message;
  if (absl::Status status = DecodeProtoInto(payload, version, known_version, &message); !status.ok()) return status;
  return message;
}

// The same with all of the message on `arena`, which owns it: a little faster, and many are freed at once.
template <typename T>
absl::StatusOr<T*> DecodeProto(absl::string_view payload, uint32_t version, uint32_t known_version,
                               google::protobuf::Arena* arena) {
  T* message = google::protobuf::Arena::CreateMessage<T>(arena);
  if (absl::Status status = DecodeProtoInto(payload, version, known_version, message); !status.ok()) return status;
  return message;
}

}  // namespace cpr

#endif  // LIBCPR_VMSTATE_PROTO_PAYLOAD_H_
