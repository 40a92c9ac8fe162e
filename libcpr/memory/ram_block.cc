#include "libcpr/memory/ram_block.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

constexpr uint64_t kSmallestPageBytes = 4096;
constexpr uint64_t kLargestPageBytes = uint64_t{1} << 30;
constexpr size_t kMaxPathBytes = 4096;

bool IsPowerOfTwo(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

absl::Status Invalid(const RamBlockLayout& layout, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("RAM block '", layout.name, "': ", why));
}

absl::Status CheckPath(const RamBlockLayout& layout) {
  const std::string& path = layout.path;
  const bool may_have_one = layout.backing == RamBacking::kFile || layout.backing == RamBacking::kDax;
  if (layout.backing == RamBacking::kDax && path.empty()) return Invalid(layout, "a DAX device needs its path");
  if (path.empty()) return absl::OkStatus();
  if (!may_have_one) return Invalid(layout, absl::StrCat(RamBackingName(layout.backing), " has no path"));
  if (path.size() > kMaxPathBytes || path[0] != '/' || absl::StrContains(path, '\0')) {
    return Invalid(layout, "the path is not absolute or too long");
  }
  return absl::OkStatus();
}

absl::Status CheckSeals(const RamBlockLayout& layout, int fd) {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0) return Invalid(layout, "the descriptor is not a memfd");
  constexpr int kNeeded = F_SEAL_SHRINK | F_SEAL_GROW;
  if (layout.shared && (seals & kNeeded) != kNeeded) {
    return absl::FailedPreconditionError(absl::StrCat(
        "RAM block '", layout.name, "': the memfd lacks F_SEAL_SHRINK or F_SEAL_GROW, so another holder could cut it"));
  }
  return absl::OkStatus();
}

absl::Status CheckKind(const RamBlockLayout& layout, int fd) {
  struct stat st;
  if (::fstat(fd, &st) != 0) return ErrnoStatus(errno, absl::StrCat("fstat of RAM block '", layout.name, "'"));
  const bool right = layout.backing == RamBacking::kDax ? S_ISCHR(st.st_mode) : S_ISREG(st.st_mode);
  if (!right) {
    return Invalid(layout, absl::StrCat("the descriptor is not of kind ", RamBackingName(layout.backing)));
  }
  return layout.backing == RamBacking::kMemfd ? CheckSeals(layout, fd) : absl::OkStatus();
}

absl::Status CheckLength(const RamBlockLayout& layout, const FileIdentity& identity) {
  const uint64_t end = layout.offset_bytes + layout.size_bytes;
  if (end <= identity.size_bytes) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("RAM block '", layout.name,
                                                    "': ", layout.path.empty() ? "the file" : layout.path, " has ",
                                                    identity.size_bytes, " bytes, ", end, " are needed"));
}

}  // namespace

absl::string_view RamBackingName(RamBacking backing) {
  switch (backing) {
    case RamBacking::kMemfd:
      return "memfd";
    case RamBacking::kFile:
      return "file";
    case RamBacking::kDax:
      return "dax";
    case RamBacking::kAnonymous:
      return "anonymous";
    case RamBacking::kUnspecified:
      break;
  }
  return "unspecified";
}

absl::Status ValidateRamBlockLayout(const RamBlockLayout& layout) {
  if (layout.name.empty() || layout.name.size() > RamBlock::kMaxNameBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a RAM block's name has 1 to ", RamBlock::kMaxNameBytes, " bytes, not ", layout.name.size()));
  }
  if (layout.backing < RamBacking::kMemfd || layout.backing > RamBacking::kAnonymous) {
    return Invalid(layout, absl::StrCat("unknown backing ", static_cast<int>(layout.backing)));
  }
  const uint64_t page = layout.page_size_bytes;
  if (!IsPowerOfTwo(page) || page < kSmallestPageBytes || page > kLargestPageBytes) {
    return Invalid(layout, absl::StrCat("page size ", page));
  }
  if (layout.size_bytes == 0) return Invalid(layout, "has no bytes");
  if (layout.size_bytes % page != 0)
    return Invalid(layout, absl::StrCat("size ", layout.size_bytes, " is not aligned"));
  if (layout.offset_bytes % page != 0) {
    return Invalid(layout, absl::StrCat("file offset ", layout.offset_bytes, " is not aligned"));
  }
  if (layout.gpa % kSmallestPageBytes != 0) return Invalid(layout, absl::StrCat("gpa ", layout.gpa, " is not aligned"));
  constexpr uint64_t kMax = RamBlock::kMaxAddress;
  if (layout.gpa >= kMax || layout.size_bytes > kMax - layout.gpa) return Invalid(layout, "ends past 2^52");
  if (layout.offset_bytes >= kMax) return Invalid(layout, "file offset past 2^52");
  return CheckPath(layout);
}

RamBlock::RamBlock(RamBlockLayout layout, UniqueFd fd, FileIdentity identity)
    : layout_(std::move(layout)), fd_(std::move(fd)), identity_(identity) {}

absl::StatusOr<RamBlock> RamBlock::Create(RamBlockLayout layout, UniqueFd fd) {
  CPR_RETURN_IF_ERROR(ValidateRamBlockLayout(layout));
  if (layout.backing == RamBacking::kAnonymous) {
    if (fd.ok() || layout.shared) return Invalid(layout, "anonymous memory has no descriptor and is not shared");
    return RamBlock(std::move(layout), UniqueFd(), FileIdentity());
  }
  if (!fd.ok()) return Invalid(layout, absl::StrCat(RamBackingName(layout.backing), " needs a descriptor"));
  CPR_RETURN_IF_ERROR(CheckKind(layout, fd.get()));
  CPR_ASSIGN_OR_RETURN(const FileIdentity identity, IdentifyFile(fd.get()));
  CPR_RETURN_IF_ERROR(CheckLength(layout, identity));
  return RamBlock(std::move(layout), std::move(fd), identity);
}

absl::StatusOr<RamBlockLayout> RamBlockLayoutFromProto(const v1::RamBlockDescriptor& descriptor) {
  RamBlockLayout layout{.name = descriptor.name(),
                        .gpa = descriptor.gpa(),
                        .size_bytes = descriptor.size_bytes(),
                        .page_size_bytes = descriptor.page_size_bytes(),
                        .backing = static_cast<RamBacking>(descriptor.backing()),
                        .shared = descriptor.shared(),
                        .path = descriptor.path(),
                        .offset_bytes = descriptor.offset_bytes()};
  CPR_RETURN_IF_ERROR(ValidateRamBlockLayout(layout));
  return layout;
}

absl::StatusOr<RamBlock> RamBlock::FromProto(const v1::RamBlockDescriptor& descriptor, UniqueFd fd) {
  CPR_ASSIGN_OR_RETURN(RamBlockLayout layout, RamBlockLayoutFromProto(descriptor));
  CPR_ASSIGN_OR_RETURN(RamBlock block, Create(std::move(layout), std::move(fd)));
  if (block.backing() == RamBacking::kAnonymous) return block;
  if (!block.identity().Matches(FileIdentityFromProto(descriptor.identity()))) {
    return absl::FailedPreconditionError(absl::StrCat("RAM block '", block.name(),
                                                      "': ", block.path().empty() ? "the descriptor" : block.path(),
                                                      " is not the file that held the guest's RAM"));
  }
  return block;
}

v1::RamBlockDescriptor RamBlock::ToProto() const {
  v1::RamBlockDescriptor proto;
  proto.set_name(layout_.name);
  proto.set_gpa(layout_.gpa);
  proto.set_size_bytes(layout_.size_bytes);
  proto.set_page_size_bytes(layout_.page_size_bytes);
  proto.set_backing(static_cast<v1::RamBacking>(layout_.backing));
  proto.set_shared(layout_.shared);
  proto.set_path(layout_.path);
  proto.set_offset_bytes(layout_.offset_bytes);
  if (fd_.ok()) *proto.mutable_identity() = FileIdentityToProto(identity_);
  return proto;
}

absl::StatusOr<UniqueFd> RamBlock::DupFd() const {
  if (!fd_.ok()) return absl::FailedPreconditionError(absl::StrCat("RAM block '", name(), "' has no descriptor"));
  return cpr::DupFd(fd_.get());
}

absl::StatusOr<RamBlock> RamBlock::Dup() const {
  UniqueFd fd;
  if (fd_.ok()) {
    CPR_ASSIGN_OR_RETURN(fd, DupFd());
  }
  return RamBlock(layout_, std::move(fd), identity_);
}

}  // namespace cpr
