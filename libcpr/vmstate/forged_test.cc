// Containers whose checksums are right and whose contents are not: what a wrong or a hostile writer produces.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/protobuf/unknown_field_set.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/section_frame.h"
#include "proto/cpr/v1/vmstate.pb.h"

namespace cpr {
namespace {

using ::cpr::internal::StoreLe;
using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

v1::SectionHeader GoodHeader() {
  v1::SectionHeader header;
  header.set_name("x");
  header.set_version(1);
  header.set_min_reader_version(1);
  header.set_stage(v1::SECTION_STAGE_LATE);
  return header;
}

// A section with any header bytes, and `fill` as padding.
std::string ForgeSection(const std::string& header, const std::string& payload, char fill = '\0') {
  std::string section(internal::kFrameBytes, '\0');
  section += header;
  section.resize(internal::AlignUp(section.size()), fill);
  section += payload;
  section.resize(internal::AlignUp(section.size()), fill);
  StoreLe(static_cast<uint32_t>(header.size()), internal::kFrameHeaderBytesAt, &section);
  StoreLe(static_cast<uint64_t>(payload.size()), internal::kFramePayloadBytesAt, &section);
  StoreLe(internal::SectionCrc(section), internal::kFrameCrcAt, &section);
  return section;
}

std::string ForgeContainer(const std::vector<std::string>& sections, uint32_t count,
                           uint32_t header_bytes = kHeaderBytes) {
  std::string bytes(header_bytes, '\0');
  uint32_t crc = 0;
  for (const std::string& section : sections) {
    bytes += section;
    crc = internal::ExtendFramesCrc(section, crc);
  }
  StateHeader header;
  header.header_bytes = header_bytes;
  header.body_bytes = bytes.size() - header_bytes + internal::kTrailerBytes;
  StoreStateHeader(header, &bytes);
  const uint32_t trailer_crc = internal::TrailerCrc(bytes, header_bytes, crc);
  bytes += std::string(internal::kTrailerMagic);
  bytes.resize(bytes.size() + 8);
  StoreLe(count, bytes.size() - 8, &bytes);
  StoreLe(trailer_crc, bytes.size() - 4, &bytes);
  return bytes;
}

absl::Status ParseSection(const std::string& section) {
  return ContainerReader::Parse(ForgeContainer({section}, 1)).status();
}

TEST(ForgedTest, TheForgeItselfIsSound) {
  EXPECT_THAT(ParseSection(ForgeSection(GoodHeader().SerializeAsString(), "payload")), IsOk());
}

TEST(ForgedTest, LongerHeaderOfALaterMinorFormatIsTaken) {
  const std::string section = ForgeSection(GoodHeader().SerializeAsString(), "payload");
  EXPECT_THAT(ContainerReader::Parse(ForgeContainer({section}, 1, 256)), IsOk());
}

TEST(ForgedTest, UnknownFieldInASectionHeaderIsRefused) {
  v1::SectionHeader header = GoodHeader();
  header.GetReflection()->MutableUnknownFields(&header)->AddVarint(9, 1);
  EXPECT_THAT(
      ParseSection(ForgeSection(header.SerializeAsString(), "")),
      StatusIs(absl::StatusCode::kDataLoss, "section 1 of 1 at byte 128: cpr.v1.SectionHeader: field 9 is not known"));
}

TEST(ForgedTest, SectionHeaderIsValidated) {
  struct Case {
    void (*spoil)(v1::SectionHeader&);
    const char* why;
  };
  const Case cases[] = {
      {[](v1::SectionHeader& h) { h.clear_name(); }, "a name is"},
      {[](v1::SectionHeader& h) { h.set_name("\x80\xff"); }, "section '\\x80\\xff'"},
      {[](v1::SectionHeader& h) { h.clear_version(); }, "versions begin at 1"},
      {[](v1::SectionHeader& h) { h.set_min_reader_version(2); }, "min_reader_version 2"},
      {[](v1::SectionHeader& h) { h.clear_stage(); }, "no stage"},
      {[](v1::SectionHeader& h) { h.set_stage(static_cast<v1::SectionStage>(7)); }, "no stage"},
  };
  for (const Case& c : cases) {
    v1::SectionHeader header = GoodHeader();
    c.spoil(header);
    EXPECT_THAT(ParseSection(ForgeSection(header.SerializeAsString(), "")),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(c.why)));
  }
}

TEST(ForgedTest, SectionHeaderThatIsNoMessageIsRefused) {
  EXPECT_THAT(ParseSection(ForgeSection("\xff\xff", "")),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("do not parse")));
}

TEST(ForgedTest, NothingHidesInThePadding) {
  EXPECT_THAT(
      ParseSection(ForgeSection(GoodHeader().SerializeAsString(), "payload", '!')),
      StatusIs(absl::StatusCode::kDataLoss, HasSubstr("section 'x' instance 0 version 1: padding is not zero")));
}

TEST(ForgedTest, TheSameSectionTwiceIsRefused) {
  const std::string section = ForgeSection(GoodHeader().SerializeAsString(), "payload");
  EXPECT_THAT(ContainerReader::Parse(ForgeContainer({section, section}, 2)),
              StatusIs(absl::StatusCode::kDataLoss, "section 'x' instance 0 version 1: is there twice"));
}

TEST(ForgedTest, CountMustBeTheNumberOfSections) {
  const std::string section = ForgeSection(GoodHeader().SerializeAsString(), "payload");
  EXPECT_THAT(ContainerReader::Parse(ForgeContainer({section}, 0)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("bytes between its 0 sections and its trailer")));
  EXPECT_THAT(ContainerReader::Parse(ForgeContainer({section}, 2)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("section 2 of 2 at byte 168: 0 bytes are too few")));
  EXPECT_THAT(ContainerReader::Parse(ForgeContainer({section}, UINT32_MAX)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("sections exceed the limit of 4096")));
}

TEST(ForgedTest, SizesBeyondLimitOrFileAreRefused) {
  const std::string section = ForgeSection(GoodHeader().SerializeAsString(), "payload");
  const auto with_sizes = [&section](uint32_t header_bytes, uint64_t payload_bytes) {
    std::string forged = section;
    StoreLe(header_bytes, internal::kFrameHeaderBytesAt, &forged);
    StoreLe(payload_bytes, internal::kFramePayloadBytesAt, &forged);
    return ParseSection(forged);
  };
  EXPECT_THAT(with_sizes(kMaxSectionHeaderBytes + 1, 0),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("exceed the limits")));
  EXPECT_THAT(with_sizes(8, UINT64_MAX), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("exceed the limits")));
  EXPECT_THAT(with_sizes(8, kMaxSectionPayloadBytes), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("reach past")));
}

TEST(ForgedTest, HugeCountAllocatesNothing) {
  // 4096 sections claimed and none there: the reader finds out at the first.
  EXPECT_THAT(ContainerReader::Parse(ForgeContainer({}, kMaxSections)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("section 1 of 4096 at byte 128")));
}

}  // namespace
}  // namespace cpr
