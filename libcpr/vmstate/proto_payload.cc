#include "libcpr/vmstate/proto_payload.h"

#include <climits>

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

absl::Status RefuseUnknownFields(const Message& message);

absl::Status RefuseUnknownFieldsIn(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  if (!field.is_repeated()) {
    return reflection.HasField(message, &field) ? RefuseUnknownFields(reflection.GetMessage(message, &field))
                                                : absl::OkStatus();
  }
  for (int i = 0, size = reflection.FieldSize(message, &field); i < size; ++i) {
    CPR_RETURN_IF_ERROR(RefuseUnknownFields(reflection.GetRepeatedMessage(message, &field, i)));
  }
  return absl::OkStatus();
}

absl::Status RefuseUnknownFields(const Message& message) {
  const Descriptor& descriptor = *message.GetDescriptor();
  const auto& unknown = message.GetReflection()->GetUnknownFields(message);
  if (!unknown.empty()) {
    return absl::DataLossError(
        absl::StrCat(descriptor.full_name(), ": field ", unknown.field(0).number(), " is not known"));
  }
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE)
      CPR_RETURN_IF_ERROR(RefuseUnknownFieldsIn(message, field));
  }
  return absl::OkStatus();
}

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
  return version <= known_version ? RefuseUnknownFields(*message) : absl::OkStatus();
}

}  // namespace cpr
