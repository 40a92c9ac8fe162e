#include "libcpr/vmstate/state_header.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/crc32c.h"
#include "libcpr/vmstate/little_endian.h"

namespace cpr {
namespace {

using internal::LoadLe;
using internal::StoreLe;

constexpr size_t kMajorAt = 8, kMinorAt = 10, kHeaderBytesAt = 12, kArchAt = 16, kFlagsAt = 20, kBodyBytesAt = 24;
constexpr size_t kCreatedAt = 32, kStateIdAt = 40, kCrcAt = 56, kReservedAt = 60;
constexpr size_t kChangedAt = kOwnershipOffsetBytes + 8;

struct ForeignFile {
  absl::string_view magic;
  absl::string_view what;
};

// What people hand over by mistake.
constexpr ForeignFile kForeignFiles[] = {{"QEVM", ", a QEMU migration stream"},
                                         {"\x7f"
                                          "ELF",
                                          ", an ELF file"},
                                         {"\x1f\x8b", ", gzip data"}};

absl::Status CheckMagic(absl::string_view bytes) {
  if (bytes.empty()) return absl::DataLossError("not a cpr state: empty");
  const absl::string_view begin = bytes.substr(0, kStateMagic.size());
  if (absl::StartsWith(kStateMagic, begin)) return absl::OkStatus();
  absl::string_view what;
  for (const ForeignFile& foreign : kForeignFiles) {
    if (absl::StartsWith(begin, foreign.magic)) what = foreign.what;
  }
  return absl::DataLossError(absl::StrCat("not a cpr state: begins with \"", absl::CHexEscape(begin), "\"", what));
}

// Before the CRC, whose place only this major format is sure of.
absl::Status CheckFormat(uint16_t major, uint16_t minor) {
  if (major == 0) return absl::DataLossError(absl::StrCat("state header: format 0.", minor, " does not exist"));
  if (major <= kFormatMajor) return absl::OkStatus();
  return absl::OutOfRangeError(
      absl::StrCat("format ", major, ".", minor, " is newer than this reader's ", kFormatMajor, ".", kFormatMinor));
}

absl::Status CheckSizes(const StateHeader& header) {
  if (header.header_bytes < kHeaderBytes || header.header_bytes > kMaxHeaderBytes || header.header_bytes % 8 != 0) {
    return absl::DataLossError(absl::StrCat("state header: header_bytes ", header.header_bytes,
                                            " is not a multiple of 8 within ", kHeaderBytes, " and ", kMaxHeaderBytes));
  }
  if (header.body_bytes > kMaxTotalBytes - header.header_bytes) {
    return absl::OutOfRangeError(absl::StrCat("state header: body_bytes ", header.body_bytes, " exceeds the limit of ",
                                              kMaxTotalBytes, " in all"));
  }
  return absl::OkStatus();
}

absl::Status CheckForHere(const StateHeader& header) {
  if (header.arch != kArchHost) {
    return absl::UnimplementedError(absl::StrCat("state is for architecture ", ArchName(header.arch),
                                                 ", this reader is for ", ArchName(kArchHost)));
  }
  if (header.flags != 0) {
    return absl::UnimplementedError(
        absl::StrCat("state header: flags 0x", absl::Hex(header.flags), " are not known to this reader"));
  }
  return absl::OkStatus();
}

absl::Status CheckCrc(absl::string_view bytes) {
  const uint32_t written = LoadLe<uint32_t>(bytes, kCrcAt);
  const uint32_t computed = Crc32c(bytes.substr(0, kCrcAt));
  if (written != computed) {
    return absl::DataLossError(absl::StrCat("state header: checksum 0x", absl::Hex(written, absl::kZeroPad8),
                                            " does not match its bytes, 0x", absl::Hex(computed, absl::kZeroPad8)));
  }
  if (LoadLe<uint32_t>(bytes, kReservedAt) != 0)
    return absl::DataLossError("state header: reserved bytes are not zero");
  return absl::OkStatus();
}

StateHeader DecodeFields(absl::string_view bytes) {
  StateHeader header;
  header.format_major = LoadLe<uint16_t>(bytes, kMajorAt);
  header.format_minor = LoadLe<uint16_t>(bytes, kMinorAt);
  header.header_bytes = LoadLe<uint32_t>(bytes, kHeaderBytesAt);
  header.arch = LoadLe<uint32_t>(bytes, kArchAt);
  header.flags = LoadLe<uint32_t>(bytes, kFlagsAt);
  header.body_bytes = LoadLe<uint64_t>(bytes, kBodyBytesAt);
  header.created_at_realtime_ns = LoadLe<uint64_t>(bytes, kCreatedAt);
  std::memcpy(header.state_id.data(), bytes.data() + kStateIdAt, header.state_id.size());
  return header;
}

}  // namespace

std::string ArchName(uint32_t arch) {
  switch (arch) {
    case kArchX86_64:
      return "x86_64";
    case kArchAarch64:
      return "aarch64";
    case kArchRiscv:
      return "riscv";
    default:
      return absl::StrCat("ELF machine ", arch);
  }
}

absl::StatusOr<StateHeader> ParseStateHeader(absl::string_view first_bytes) {
  if (absl::Status status = CheckMagic(first_bytes); !status.ok()) return status;
  if (first_bytes.size() < kFixedHeaderBytes) {
    return absl::DataLossError(
        absl::StrCat("state is cut: ", first_bytes.size(), " of the header's ", kFixedHeaderBytes, " bytes"));
  }
  const StateHeader header = DecodeFields(first_bytes);
  for (const absl::Status& status : {CheckFormat(header.format_major, header.format_minor), CheckCrc(first_bytes),
                                     CheckForHere(header), CheckSizes(header)}) {
    if (!status.ok()) return status;
  }
  return header;
}

void StoreStateHeader(const StateHeader& header, std::string* bytes) {
  std::copy(kStateMagic.begin(), kStateMagic.end(), bytes->begin());
  StoreLe(header.format_major, kMajorAt, bytes);
  StoreLe(header.format_minor, kMinorAt, bytes);
  StoreLe(header.header_bytes, kHeaderBytesAt, bytes);
  StoreLe(header.arch, kArchAt, bytes);
  StoreLe(header.flags, kFlagsAt, bytes);
  StoreLe(header.body_bytes, kBodyBytesAt, bytes);
  StoreLe(header.created_at_realtime_ns, kCreatedAt, bytes);
  std::copy(header.state_id.begin(), header.state_id.end(), bytes->begin() + kStateIdAt);
  StoreLe(Crc32c(absl::string_view(*bytes).substr(0, kCrcAt)), kCrcAt, bytes);
  StoreLe(uint32_t{0}, kReservedAt, bytes);
}

OwnershipBlock CopyOwnershipBlock(absl::string_view container) {
  return {LoadLe<uint64_t>(container, kOwnershipOffsetBytes), LoadLe<uint64_t>(container, kChangedAt)};
}

}  // namespace cpr
