#include "libcpr/vmstate/proto_payload.h"

#include <climits>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/unknown_field_set.h"
#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::google::protobuf::Reflection;

// Finds fields that the reader does not know, at any depth. State has many small messages of few types, most of them
// without messages in them, so which fields of a type to look into is found out once for each.
class UnknownFields {
 public:
  absl::Status RefuseIn(const Message& message) {
    return RefuseIn(message, FieldsToLookInto(*message.GetDescriptor()));
  }

 private:
  using Fields = std::vector<const FieldDescriptor*>;

  const Fields& FieldsToLookInto(const Descriptor& type) {
    const auto [entry, is_new] = fields_.try_emplace(&type);
    if (!is_new) return entry->second;
    for (int i = 0; i < type.field_count(); ++i) {
      if (type.field(i)->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) entry->second.push_back(type.field(i));
    }
    return entry->second;
  }

  absl::Status RefuseIn(const Message& message, const Fields& fields) {
    const Reflection& reflection = *message.GetReflection();
    if (const auto& unknown = reflection.GetUnknownFields(message); !unknown.empty()) {
      return absl::DataLossError(
          absl::StrCat(message.GetTypeName(), ": field ", unknown.field(0).number(), " is not known"));
    }
    for (const FieldDescriptor* field : fields) CPR_RETURN_IF_ERROR(RefuseInField(message, reflection, *field));
    return absl::OkStatus();
  }

  absl::Status RefuseInField(const Message& message, const Reflection& reflection, const FieldDescriptor& field) {
    const Fields& inner = FieldsToLookInto(*field.message_type());
    if (!field.is_repeated()) {
      return reflection.HasField(message, &field) ? RefuseIn(reflection.GetMessage(message, &field), inner)
                                                  : absl::OkStatus();
    }
    for (int i = 0, size = reflection.FieldSize(message, &field); i < size; ++i) {
      CPR_RETURN_IF_ERROR(RefuseIn(reflection.GetRepeatedMessage(message, &field, i), inner));
    }
    return absl::OkStatus();
  }

  std::map<const Descriptor*, Fields> fields_;  // its entries stay where they are
};

}  // namespace

absl::Status EncodeProto(const Message& message, std::string* payload) {
  if (!message.IsInitialized()) {
    return absl::InvalidArgumentError(
        absl::StrCat(message.GetTypeName(), ": not set: ", message.InitializationErrorString()));
  }
  const size_t bytes = message.ByteSizeLong();
  if (bytes > INT_MAX) {
    return absl::ResourceExhaustedError(absl::StrCat(message.GetTypeName(), ": ", bytes, " bytes are too many"));
  }
  const size_t at = payload->size();
  payload->resize(at + bytes);
  google::protobuf::io::ArrayOutputStream stream(payload->data() + at, static_cast<int>(bytes));
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeWithCachedSizes(&coded);
  return absl::OkStatus();
}

absl::Status DecodeProtoInto(absl::string_view payload, uint32_t version, uint32_t known_version, Message* message) {
  if (payload.size() > INT_MAX) {
    return absl::DataLossError(absl::StrCat(message->GetTypeName(), ": ", payload.size(), " bytes are too many"));
  }
  google::protobuf::io::CodedInputStream coded(reinterpret_cast<const uint8_t*>(payload.data()),
                                               static_cast<int>(payload.size()));
  coded.SetRecursionLimit(kMaxProtoDepth);
  // "Partial", since the other one prints about required fields that are missing.
  if (!message->ParsePartialFromCodedStream(&coded) || !coded.ConsumedEntireMessage()) {
    return absl::DataLossError(absl::StrCat(message->GetTypeName(), ": ", payload.size(), " bytes do not parse"));
  }
  if (!message->IsInitialized()) {
    return absl::DataLossError(
        absl::StrCat(message->GetTypeName(), ": not set: ", message->InitializationErrorString()));
  }
  return version <= known_version ? UnknownFields().RefuseIn(*message) : absl::OkStatus();
}

}  // namespace cpr
