#ifndef LIBCPR_TESTING_SECTION_CONFORMANCE_H_
#define LIBCPR_TESTING_SECTION_CONFORMANCE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

// What every stateful class must do with its state, as one suite. A class takes part by a traits type:
//
//   struct SerialTraits {
//     using Object = Serial;                       // or a struct that holds one with what it needs
//     using Proto = v1::SerialState;
//     static std::unique_ptr<Object> Create();     // in its default state
//     static void Modify(Object& object);          // every field of its state other than the default
//     static Proto Save(const Object& object);
//     static absl::Status Restore(Object& object, const Proto& proto);
//     static std::vector<Corruption<Proto>> Corruptions();  // each field beyond its range, one at a time
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(Serial, SectionConformance, SerialTraits);
//
// The last field of the message must be one that is required, so that no truncation goes unseen.

namespace cpr::testing {

template <typename Proto>
struct Corruption {
  std::string name;
  void (*apply)(Proto&);
};

template <typename Traits>
class SectionConformance : public ::testing::Test {
 protected:
  using Object = typename Traits::Object;
  using Proto = typename Traits::Proto;

  static std::unique_ptr<Object> CreateModified() {
    std::unique_ptr<Object> object = Traits::Create();
    Traits::Modify(*object);
    return object;
  }
  static std::string Text(const Object& object) { return Traits::Save(object).DebugString(); }

  // Restoring `proto` must be refused, into a default object as into a modified one, and change neither.
  static void ExpectRefused(const Proto& proto, absl::string_view what) {
    for (const bool modified : {false, true}) {
      const std::unique_ptr<Object> object = modified ? CreateModified() : Traits::Create();
      const std::string before = Text(*object);
      EXPECT_FALSE(Traits::Restore(*object, proto).ok()) << what << " was accepted: " << proto.ShortDebugString();
      EXPECT_EQ(Text(*object), before) << what << " was refused, but not without effect";
    }
  }
};
TYPED_TEST_SUITE_P(SectionConformance);

TYPED_TEST_P(SectionConformance, DefaultStateRoundTrips) {
  const auto saved = TypeParam::Save(*TypeParam::Create());
  auto fresh = TypeParam::Create();
  ASSERT_THAT(TypeParam::Restore(*fresh, saved), IsOk());
  EXPECT_EQ(this->Text(*fresh), saved.DebugString());
}

TYPED_TEST_P(SectionConformance, ModifiedStateRoundTripsThroughBytes) {
  const auto saved = TypeParam::Save(*this->CreateModified());
  EXPECT_NE(saved.DebugString(), this->Text(*TypeParam::Create())) << "Modify changed nothing";
  typename TypeParam::Proto read;
  ASSERT_TRUE(read.ParseFromString(saved.SerializeAsString()));
  auto fresh = TypeParam::Create();
  ASSERT_THAT(TypeParam::Restore(*fresh, read), IsOk());
  EXPECT_EQ(this->Text(*fresh), saved.DebugString());
}

TYPED_TEST_P(SectionConformance, DefaultStateReplacesModifiedState) {
  const auto saved = TypeParam::Save(*TypeParam::Create());
  auto modified = this->CreateModified();
  ASSERT_THAT(TypeParam::Restore(*modified, saved), IsOk());
  EXPECT_EQ(this->Text(*modified), saved.DebugString());
}

TYPED_TEST_P(SectionConformance, SaveIsRepeatable) {
  const auto object = this->CreateModified();
  const std::string first = this->Text(*object);
  EXPECT_EQ(this->Text(*object), first);
}

TYPED_TEST_P(SectionConformance, TruncationAtEveryByteIsRefused) {
  const std::string bytes = TypeParam::Save(*this->CreateModified()).SerializeAsString();
  for (size_t size = 0; size < bytes.size(); ++size) {
    typename TypeParam::Proto cut;
    if (!cut.ParseFromString(bytes.substr(0, size))) continue;
    this->ExpectRefused(cut, "state cut to " + std::to_string(size) + " of " + std::to_string(bytes.size()) + " bytes");
  }
}

TYPED_TEST_P(SectionConformance, EveryMissingFieldIsRefused) {
  const auto saved = TypeParam::Save(*this->CreateModified());
  const google::protobuf::Descriptor& descriptor = *saved.GetDescriptor();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const google::protobuf::FieldDescriptor& field = *descriptor.field(i);
    // Repeated fields and messages may be absent; corruptions tell where they may not.
    if (field.is_repeated() || field.message_type() != nullptr) continue;
    ASSERT_TRUE(field.has_presence()) << field.full_name() << " is not optional: zero and missing look the same";
    auto without = saved;
    without.GetReflection()->ClearField(&without, &field);
    this->ExpectRefused(without, "state without " + field.name());
  }
}

TYPED_TEST_P(SectionConformance, EveryCorruptionIsRefused) {
  for (const auto& corruption : TypeParam::Corruptions()) {
    auto proto = TypeParam::Save(*this->CreateModified());
    corruption.apply(proto);
    this->ExpectRefused(proto, corruption.name);
  }
}

REGISTER_TYPED_TEST_SUITE_P(SectionConformance, DefaultStateRoundTrips, ModifiedStateRoundTripsThroughBytes,
                            DefaultStateReplacesModifiedState, SaveIsRepeatable, TruncationAtEveryByteIsRefused,
                            EveryMissingFieldIsRefused, EveryCorruptionIsRefused);

}  // namespace cpr::testing

#endif  // LIBCPR_TESTING_SECTION_CONFORMANCE_H_
