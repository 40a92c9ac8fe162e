#include "libcpr/vmstate/container.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/vmstate/section_frame.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

absl::Status AddBytes(ContainerWriter& writer, const SectionInfo& info, absl::string_view bytes) {
  return writer.Add(info, [bytes](std::string* payload) {
    payload->append(bytes.data(), bytes.size());
    return absl::OkStatus();
  });
}

std::string TwoSections() {
  std::string bytes;
  ContainerWriter writer(&bytes);
  EXPECT_THAT(
      AddBytes(writer, {.name = "serial", .instance = 3, .version = 4, .min_reader_version = 2, .stage = Stage::kEarly},
               "some state"),
      IsOk());
  EXPECT_THAT(AddBytes(writer, {.name = "vcpu", .optional = true}, ""), IsOk());
  EXPECT_THAT(writer.Finish(), IsOk());
  return bytes;
}

// `bytes` with `value` at `at` and every checksum made right again: what only a wrong writer produces.
template <typename T>
std::string Forge(std::string bytes, size_t at, T value) {
  internal::StoreLe(value, at, &bytes);
  internal::StoreLe(Crc32c(absl::string_view(bytes).substr(0, 56)), 56, &bytes);
  return bytes;
}

TEST(ContainerTest, RoundTripKeepsEverything) {
  const std::string bytes = TwoSections();
  CPR_ASSERT_OK_AND_ASSIGN(const ContainerReader reader, ContainerReader::Parse(bytes));
  ASSERT_EQ(reader.sections().size(), 2u);
  const ContainerReader::View& serial = reader.sections()[0];
  EXPECT_EQ(serial.info.name, "serial");
  EXPECT_EQ(serial.info.instance, 3u);
  EXPECT_EQ(serial.info.version, 4u);
  EXPECT_EQ(serial.info.min_reader_version, 2u);
  EXPECT_FALSE(serial.info.optional);
  EXPECT_EQ(serial.info.stage, Stage::kEarly);
  EXPECT_EQ(serial.payload, "some state");
  EXPECT_TRUE(reader.sections()[1].info.optional);
  EXPECT_EQ(reader.Find("vcpu", 0), &reader.sections()[1]);
  EXPECT_EQ(reader.Find("vcpu", 1), nullptr);
}

TEST(ContainerTest, HeaderSaysSizeTimeAndIdentity) {
  std::string bytes;
  const StateIdentity identity = {.created_at_realtime_ns = 42, .state_id = {1, 2, 3}};
  ContainerWriter writer(&bytes, identity);
  ASSERT_THAT(writer.Finish(), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const StateHeader header, ContainerReader::ParseHeader(bytes));
  EXPECT_EQ(header.total_bytes(), bytes.size());
  EXPECT_EQ(header.arch, kArchHost);
  EXPECT_EQ(header.created_at_realtime_ns, 42u);
  EXPECT_EQ(header.state_id, identity.state_id);
  EXPECT_THAT(ContainerReader::Parse(bytes), IsOk()) << "no sections at all is a container";
}

TEST(ContainerTest, TwoStatesHaveTwoIdentities) {
  CPR_ASSERT_OK_AND_ASSIGN(const StateHeader a, ContainerReader::ParseHeader(TwoSections()));
  CPR_ASSERT_OK_AND_ASSIGN(const StateHeader b, ContainerReader::ParseHeader(TwoSections()));
  EXPECT_NE(a.state_id, b.state_id);
  EXPECT_GT(a.created_at_realtime_ns, 0u);
}

TEST(ContainerTest, PayloadsAreAlignedAndNotCopied) {
  const std::string bytes = TwoSections();
  CPR_ASSERT_OK_AND_ASSIGN(const ContainerReader reader, ContainerReader::Parse(bytes));
  for (const ContainerReader::View& view : reader.sections()) {
    EXPECT_GE(view.payload.data(), bytes.data());
    EXPECT_LE(view.payload.data() + view.payload.size(), bytes.data() + bytes.size());
    EXPECT_EQ((view.payload.data() - bytes.data()) % 8, 0);
  }
}

TEST(ContainerTest, EveryTruncationIsAnError) {
  const std::string bytes = TwoSections();
  for (size_t size = 0; size < bytes.size(); ++size) {
    const auto reader = ContainerReader::Parse(absl::string_view(bytes).substr(0, size));
    ASSERT_THAT(reader, StatusIs(absl::StatusCode::kDataLoss, HasSubstr(size == 0 ? "empty" : "cut"))) << size;
  }
}

TEST(ContainerTest, EveryChangedByteOutsideTheOwnershipBlockIsAnError) {
  const std::string bytes = TwoSections();
  for (size_t at = 0; at < bytes.size(); ++at) {
    const bool ownership = at >= kOwnershipOffsetBytes && at < kOwnershipOffsetBytes + kOwnershipBytes;
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::string altered = bytes;
      altered[at] = static_cast<char>(altered[at] ^ flip);
      ASSERT_EQ(ContainerReader::Parse(altered).ok(), ownership) << "byte " << at;
    }
  }
}

TEST(ContainerTest, BytesAfterTheEndAreAnError) {
  EXPECT_THAT(ContainerReader::Parse(TwoSections() + "x"),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("1 bytes after its end")));
}

TEST(ContainerTest, AlteredPayloadIsNamedByItsPlace) {
  std::string bytes = TwoSections();
  bytes[bytes.find("some state")] = 'S';
  EXPECT_THAT(ContainerReader::Parse(bytes),
              StatusIs(absl::StatusCode::kDataLoss, AllOf(HasSubstr("section 1 of 2 at byte 128: checksum 0x"))));
}

TEST(ContainerTest, OwnershipBlockIsInsideItsPlaceAndBeginsAsZeros) {
  std::string bytes = TwoSections();
  EXPECT_EQ(CopyOwnershipBlock(bytes).word, 0u);
  internal::StoreLe(uint64_t{7}, kOwnershipOffsetBytes, &bytes);
  EXPECT_EQ(CopyOwnershipBlock(bytes).word, 7u);
  EXPECT_THAT(ContainerReader::Parse(bytes), IsOk());
}

TEST(ParseHeaderTest, SaysWhatForeignInputIs) {
  const auto message = [](absl::string_view bytes) {
    return std::string(ContainerReader::ParseHeader(bytes).status().message());
  };
  EXPECT_EQ(message(""), "not a cpr state: empty");
  EXPECT_EQ(message("#!/bin/sh\n"), "not a cpr state: begins with \"#!/bin/s\"");
  EXPECT_EQ(message(absl::string_view("QEVM\0\0\0\3", 8)),
            "not a cpr state: begins with \"QEVM\\x00\\x00\\x00\\x03\", a QEMU migration stream");
  EXPECT_EQ(message("CPRSTATE"), "state is cut: 8 of the header's 64 bytes");
  EXPECT_EQ(message("CP"), "state is cut: 2 of the header's 64 bytes");
}

TEST(ParseHeaderTest, NewerFormatIsNamedWithoutALookAtTheRest) {
  std::string bytes = TwoSections();
  internal::StoreLe(uint16_t{3}, 8, &bytes);
  EXPECT_THAT(ContainerReader::Parse(bytes),
              StatusIs(absl::StatusCode::kOutOfRange, "format 3.0 is newer than this reader's 1.0"));
}

TEST(ParseHeaderTest, NewerMinorFormatIsTaken) {
  const auto header = ContainerReader::ParseHeader(Forge(TwoSections(), 10, uint16_t{9}));
  ASSERT_THAT(header, IsOk());
  EXPECT_EQ(header->format_minor, 9);
}

TEST(ParseHeaderTest, RefusesWhatIsNotForHere) {
  const std::string bytes = TwoSections();
  EXPECT_THAT(ContainerReader::ParseHeader(Forge(bytes, 16, kArchRiscv)),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("for architecture riscv, this reader is for")));
  EXPECT_THAT(ContainerReader::ParseHeader(Forge(bytes, 20, uint32_t{0x10})),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("flags 0x10")));
  EXPECT_THAT(ContainerReader::ParseHeader(Forge(bytes, 24, uint64_t{1} << 60)),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("exceeds the limit")));
  EXPECT_THAT(ContainerReader::ParseHeader(Forge(bytes, 12, uint32_t{1} << 30)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("header_bytes")));
  EXPECT_THAT(ContainerReader::ParseHeader(Forge(bytes, 8, uint16_t{0})),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("format 0.0")));
}

TEST(ContainerWriterTest, RefusesWrongInfosAndStaysRefused) {
  const std::pair<SectionInfo, absl::string_view> wrong[] = {
      {{.name = ""}, "a name is"},
      {{.name = "two words"}, "a name is"},
      {{.name = std::string(kMaxSectionNameBytes + 1, 'n')}, "a name is"},
      {{.name = "x", .version = 0}, "versions begin at 1"},
      {{.name = "x", .version = 2, .min_reader_version = 3}, "min_reader_version 3"},
      {{.name = "x", .stage = Stage::kUnspecified}, "no stage"},
  };
  for (const auto& [info, why] : wrong) {
    std::string bytes;
    ContainerWriter writer(&bytes);
    EXPECT_THAT(AddBytes(writer, info, ""), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(std::string(why))));
    EXPECT_FALSE(writer.Finish().ok());
  }
}

TEST(ContainerWriterTest, RefusesTheSameSectionTwice) {
  std::string bytes;
  ContainerWriter writer(&bytes);
  ASSERT_THAT(AddBytes(writer, {.name = "a"}, ""), IsOk());
  ASSERT_THAT(AddBytes(writer, {.name = "a", .instance = 1}, ""), IsOk());
  EXPECT_THAT(AddBytes(writer, {.name = "a"}, ""),
              StatusIs(absl::StatusCode::kInvalidArgument, "section 'a' instance 0 version 1: was added already"));
}

TEST(ContainerWriterTest, FailedSaveIsNamedAndLeavesNothingBehind) {
  std::string bytes;
  ContainerWriter writer(&bytes);
  ASSERT_THAT(AddBytes(writer, {.name = "a"}, "x"), IsOk());
  const std::string before = bytes;
  const absl::Status status = writer.Add({.name = "b"}, [](std::string* payload) {
    payload->append(100, 'b');
    return absl::UnavailableError("device busy");
  });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, "section 'b' instance 0 version 1: device busy"));
  EXPECT_EQ(bytes, before);
  EXPECT_EQ(writer.Finish(), status);
}

TEST(ContainerWriterTest, SaveMayNotRemoveWhatIsThere) {
  std::string bytes;
  ContainerWriter writer(&bytes);
  EXPECT_THAT(writer.Add({.name = "a"},
                         [](std::string* payload) {
                           payload->clear();
                           return absl::OkStatus();
                         }),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("section 'a'")));
}

TEST(ContainerWriterTest, FinishedIsFinished) {
  std::string bytes;
  ContainerWriter writer(&bytes);
  ASSERT_THAT(writer.Finish(), IsOk());
  EXPECT_THAT(writer.Finish(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("finished")));
  EXPECT_THAT(AddBytes(writer, {.name = "a"}, ""), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("'a'")));
  EXPECT_THAT(ContainerReader::Parse(bytes), IsOk());
}

TEST(ContainerWriterTest, HoldsToTheLimits) {
  std::string bytes;
  ContainerWriter writer(&bytes);
  EXPECT_THAT(writer.Add({.name = "huge"},
                         [](std::string* payload) {
                           payload->resize(payload->size() + kMaxSectionPayloadBytes + 1);
                           return absl::OkStatus();
                         }),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("section 'huge'")));
  ContainerWriter many(&bytes);
  for (uint32_t i = 0; i < kMaxSections; ++i) ASSERT_THAT(AddBytes(many, {.name = "n", .instance = i}, ""), IsOk());
  EXPECT_THAT(AddBytes(many, {.name = "n", .instance = kMaxSections}, ""),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("4096 sections")));
}

TEST(ContainerWriterTest, LongestNameFitsTheHeadersLimit) {
  std::string bytes;
  ContainerWriter writer(&bytes);
  const SectionInfo info = {.name = std::string(kMaxSectionNameBytes, 'n'),
                            .instance = UINT32_MAX,
                            .version = UINT32_MAX,
                            .min_reader_version = UINT32_MAX,
                            .optional = true};
  ASSERT_THAT(AddBytes(writer, info, "x"), IsOk());
  ASSERT_THAT(writer.Finish(), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const ContainerReader reader, ContainerReader::Parse(bytes));
  EXPECT_NE(reader.Find(info.name, UINT32_MAX), nullptr);
}

}  // namespace
}  // namespace cpr
