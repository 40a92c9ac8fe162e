#include "libcpr/vmstate/proto_payload.h"

#include <string>

#include "gmock/gmock.h"
#include "google/protobuf/descriptor.pb.h"
#include "google/protobuf/struct.pb.h"
#include "google/protobuf/unknown_field_set.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "proto/cpr/v1/vmstate.pb.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::google::protobuf::Struct;
using ::google::protobuf::Value;
using ::testing::HasSubstr;

void AddUnknown(google::protobuf::Message& message, int number) {
  message.GetReflection()->MutableUnknownFields(&message)->AddVarint(number, 1);
}

std::string Encode(const google::protobuf::Message& message) {
  std::string payload;
  EXPECT_THAT(EncodeProto(message, &payload), IsOk());
  return payload;
}

TEST(EncodeProtoTest, AppendsAndLeavesWhatIsThere) {
  v1::SectionHeader header;
  header.set_name("serial");
  std::string payload = "before";
  ASSERT_THAT(EncodeProto(header, &payload), IsOk());
  EXPECT_EQ(payload, "before" + header.SerializeAsString());
}

TEST(EncodeProtoTest, MapsComeInOneOrder) {
  Struct a, b;
  for (int i = 0; i < 50; ++i) (*a.mutable_fields())[std::to_string(i)].set_number_value(i);
  for (int i = 49; i >= 0; --i) (*b.mutable_fields())[std::to_string(i)].set_number_value(i);
  EXPECT_EQ(Encode(a), Encode(b));
}

TEST(EncodeProtoTest, RequiredFieldsThatAreNotSetAreNamed) {
  google::protobuf::UninterpretedOption::NamePart part;  // proto2
  std::string payload;
  EXPECT_THAT(EncodeProto(part, &payload), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("name_part")));
  EXPECT_THAT(DecodeProtoInto("", 1, 1, &part), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("name_part")));
}

TEST(DecodeProtoTest, RoundTripWithAndWithoutArena) {
  Struct state;
  (*state.mutable_fields())["baud"].set_number_value(9600);
  const std::string payload = Encode(state);
  CPR_ASSERT_OK_AND_ASSIGN(const Struct plain, DecodeProto<Struct>(payload, 1, 1));
  EXPECT_EQ(plain.fields().at("baud").number_value(), 9600);
  google::protobuf::Arena arena;
  CPR_ASSERT_OK_AND_ASSIGN(const Struct* on_arena, DecodeProto<Struct>(payload, 1, 1, &arena));
  EXPECT_EQ(on_arena->fields().at("baud").number_value(), 9600);
  EXPECT_EQ(on_arena->GetArena(), &arena);
}

TEST(DecodeProtoTest, BytesThatAreNoMessageAreAnError) {
  EXPECT_THAT(DecodeProto<v1::SectionHeader>("\xff\xff", 1, 1),
              StatusIs(absl::StatusCode::kDataLoss, "cpr.v1.SectionHeader: 2 bytes do not parse"));
}

TEST(DecodeProtoTest, UnknownFieldIsAnErrorUnlessTheWriterIsNewer) {
  v1::SectionHeader header;
  AddUnknown(header, 77);
  const std::string payload = Encode(header);
  EXPECT_THAT(DecodeProto<v1::SectionHeader>(payload, 2, 2),
              StatusIs(absl::StatusCode::kDataLoss, "cpr.v1.SectionHeader: field 77 is not known"));
  EXPECT_THAT(DecodeProto<v1::SectionHeader>(payload, 1, 2), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("77")));
  EXPECT_THAT(DecodeProto<v1::SectionHeader>(payload, 3, 2), IsOk());
}

TEST(DecodeProtoTest, UnknownFieldsAreFoundAtAnyDepth) {
  Struct in_map, in_list;
  AddUnknown((*in_map.mutable_fields())["a"], 50);
  Value& list = (*in_list.mutable_fields())["a"];
  list.mutable_list_value()->add_values()->set_bool_value(true);
  AddUnknown(*list.mutable_list_value()->add_values(), 51);
  EXPECT_THAT(DecodeProto<Struct>(Encode(in_map), 1, 1),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("Value: field 50")));
  EXPECT_THAT(DecodeProto<Struct>(Encode(in_list), 1, 1),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("Value: field 51")));
}

TEST(DecodeProtoTest, DepthIsLimited) {
  Value deep;
  Value* at = &deep;
  for (int i = 0; i < kMaxProtoDepth; ++i) at = at->mutable_list_value()->add_values();
  at->set_bool_value(true);
  EXPECT_THAT(DecodeProto<Value>(Encode(deep), 1, 1), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("do not parse")));
}

}  // namespace
}  // namespace cpr
