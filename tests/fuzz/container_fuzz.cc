// State containers from hostile files and peers.
//
// Promises: Parse() comes back; what it accepts lies within the input, can be written again and means the same then;
// loading it touches nothing unless all of it loads. Each input is tried as it is and with its checksums made right, or
// mutations would seldom get past them.
#include <string>

#include "google/protobuf/struct.pb.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/proto_payload.h"
#include "libcpr/vmstate/section.h"
#include "libcpr/vmstate/section_frame.h"
#include "tests/fuzz/fuzz.h"

namespace {

using ::cpr::ContainerReader;
using ::cpr::SectionView;
namespace wire = ::cpr::internal;

// Gives `bytes` a good header and makes right every checksum that can be found, up to where the sections go wrong.
void RepairChecksums(std::string* bytes) {
  if (bytes->size() < cpr::kHeaderBytes + wire::kTrailerBytes) return;
  bytes->resize(wire::AlignUp(bytes->size()));
  cpr::StoreStateHeader({.body_bytes = bytes->size() - cpr::kHeaderBytes}, bytes);
  const size_t trailer_at = bytes->size() - wire::kTrailerBytes;
  uint32_t frames_crc = 0, count = 0;
  for (size_t at = cpr::kHeaderBytes; at < trailer_at; ++count) {
    const auto frame = wire::DecodeFrame(absl::string_view(*bytes).substr(at, trailer_at - at));
    if (!frame.ok()) break;
    const absl::string_view section = absl::string_view(*bytes).substr(at, frame->section_bytes);
    wire::StoreLe(wire::SectionCrc(section), at + wire::kFrameCrcAt, bytes);
    frames_crc = wire::ExtendFramesCrc(section, frames_crc);
    at += frame->section_bytes;
  }
  bytes->replace(trailer_at, wire::kTrailerMagic.size(), wire::kTrailerMagic.data(), wire::kTrailerMagic.size());
  wire::StoreLe(count, trailer_at + wire::kTrailerCountAt, bytes);
  wire::StoreLe(wire::TrailerCrc(*bytes, cpr::kHeaderBytes, frames_crc), trailer_at + wire::kTrailerCrcAt, bytes);
}

bool Same(const SectionView& a, const SectionView& b) {
  return a.info.name == b.info.name && a.info.instance == b.info.instance && a.info.version == b.info.version &&
         a.info.min_reader_version == b.info.min_reader_version && a.info.optional == b.info.optional &&
         a.info.stage == b.info.stage && a.payload == b.payload;
}

void CheckWritesTheSame(const ContainerReader& reader) {
  std::string bytes;
  cpr::ContainerWriter writer(&bytes, cpr::StateIdentity{.state_id = reader.header().state_id});
  for (const SectionView& view : reader.sections()) {
    const absl::Status status = writer.Add(view.info, [&view](std::string* payload) {
      payload->append(view.payload.data(), view.payload.size());
      return absl::OkStatus();
    });
    FUZZ_CHECK(status.ok());
  }
  FUZZ_CHECK(writer.Finish().ok());
  const auto again = ContainerReader::Parse(bytes);
  FUZZ_CHECK(again.ok());
  FUZZ_CHECK(again->sections().size() == reader.sections().size());
  for (size_t i = 0; i < again->sections().size(); ++i) FUZZ_CHECK(Same(again->sections()[i], reader.sections()[i]));
}

void CheckLoadsAllOrNothing(const ContainerReader& reader) {
  cpr::SectionRegistry registry;
  int applied = 0;
  for (const char* name : {"proto", "raw"}) {
    const absl::Status added =
        registry.Add({.info = {.name = name, .version = 4, .optional = true},
                      .save = [](std::string*) { return absl::OkStatus(); },
                      .load =
                          [](absl::string_view payload, uint32_t version) {
                            return cpr::DecodeProto<google::protobuf::Struct>(payload, version, 4).status();
                          },
                      .apply =
                          [&applied] {
                            ++applied;
                            return absl::OkStatus();
                          }});
    FUZZ_CHECK(added.ok());
  }
  const absl::Status loaded = cpr::LoadSections(registry, cpr::Stage::kLate, reader);
  FUZZ_CHECK(applied == 0);
  FUZZ_CHECK(cpr::ApplySections(registry, cpr::Stage::kLate).ok());
  FUZZ_CHECK(loaded.ok() || applied == 0);
}

void ParseOne(absl::string_view input) {
  const auto reader = ContainerReader::Parse(input);
  if (!reader.ok()) {
    FUZZ_CHECK(!reader.status().message().empty());
    return;
  }
  FUZZ_CHECK(reader->header().total_bytes() == input.size());
  for (const SectionView& view : reader->sections()) {
    FUZZ_CHECK(view.payload.data() >= input.data());
    FUZZ_CHECK(view.payload.data() + view.payload.size() <= input.data() + input.size());
    FUZZ_CHECK(reader->Find(view.info.name, view.info.instance) == &view);
  }
  CheckWritesTheSame(*reader);
  CheckLoadsAllOrNothing(*reader);
}

}  // namespace

void FuzzOne(absl::string_view input) {
  ParseOne(input);
  std::string repaired(input);
  RepairChecksums(&repaired);
  ParseOne(repaired);
}
