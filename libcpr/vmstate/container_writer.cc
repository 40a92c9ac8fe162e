#include <sys/random.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/proto_payload.h"
#include "libcpr/vmstate/section_frame.h"
#include "proto/cpr/v1/vmstate.pb.h"

namespace cpr {
namespace {

using namespace internal;  // NOLINT: the frame's constants

v1::SectionHeader ToProto(const SectionInfo& info) {
  v1::SectionHeader header;
  header.set_name(info.name);
  header.set_instance(info.instance);
  header.set_version(info.version);
  header.set_min_reader_version(info.min_reader_version);
  header.set_optional(info.optional);
  header.set_stage(info.stage == Stage::kEarly ? v1::SECTION_STAGE_EARLY : v1::SECTION_STAGE_LATE);
  return header;
}

absl::StatusOr<StateIdentity> CreateIdentity() {
  StateIdentity identity;
  identity.created_at_realtime_ns = static_cast<uint64_t>(absl::GetCurrentTimeNanos());
  ssize_t got;
  do {
    got = ::getrandom(identity.state_id.data(), identity.state_id.size(), 0);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return ErrnoStatus(errno, "getrandom of a state_id");
  return identity;  // never short: up to 256 bytes come whole
}

}  // namespace

ContainerWriter::ContainerWriter(std::string* out, std::optional<StateIdentity> identity)
    : out_(out), identity_(identity) {
  out_->assign(kHeaderBytes, '\0');
}

absl::Status ContainerWriter::CheckAddable(const SectionInfo& info) {
  CPR_RETURN_IF_ERROR(ValidateSectionInfo(info));
  if (taken_.size() == kMaxSections) {
    return absl::ResourceExhaustedError(
        absl::StrCat(DescribeSection(info), ": there are ", kMaxSections, " sections already"));
  }
  if (!taken_.emplace(info.name, info.instance).second) {
    return absl::InvalidArgumentError(absl::StrCat(DescribeSection(info), ": was added already"));
  }
  return absl::OkStatus();
}

absl::Status ContainerWriter::Append(const SectionInfo& info, absl::FunctionRef<absl::Status(std::string*)> save) {
  const size_t begin = out_->size();
  out_->resize(begin + kFrameBytes);
  CPR_RETURN_IF_ERROR(EncodeProto(ToProto(info), out_));
  const size_t header_bytes = out_->size() - begin - kFrameBytes;
  out_->resize(AlignUp(out_->size()));
  const size_t payload_at = out_->size();
  CPR_RETURN_IF_ERROR(save(out_));
  if (out_->size() < payload_at) return absl::InternalError("its save removed bytes that are not its own");
  const uint64_t payload_bytes = out_->size() - payload_at;
  if (payload_bytes > kMaxSectionPayloadBytes || AlignUp(out_->size()) + kTrailerBytes > kMaxTotalBytes) {
    return absl::ResourceExhaustedError(absl::StrCat(payload_bytes, " bytes exceed the limit of ",
                                                     kMaxSectionPayloadBytes, " for a section or ", kMaxTotalBytes,
                                                     " in all"));
  }
  out_->resize(AlignUp(out_->size()));
  StoreLe(static_cast<uint32_t>(header_bytes), begin + kFrameHeaderBytesAt, out_);
  StoreLe(payload_bytes, begin + kFramePayloadBytesAt, out_);
  const absl::string_view section = absl::string_view(*out_).substr(begin);
  StoreLe(SectionCrc(section), begin + kFrameCrcAt, out_);
  frames_crc_ = ExtendFramesCrc(section, frames_crc_);
  return absl::OkStatus();
}

absl::Status ContainerWriter::Add(const SectionInfo& info, absl::FunctionRef<absl::Status(std::string*)> save) {
  if (!status_.ok()) return status_;
  if (finished_)
    return absl::FailedPreconditionError(absl::StrCat(DescribeSection(info), ": the container is finished"));
  CPR_RETURN_IF_ERROR(status_ = CheckAddable(info));
  const size_t before = out_->size();
  status_ = Annotate(Append(info, save), DescribeSection(info));
  if (!status_.ok()) out_->resize(before);
  return status_;
}

absl::Status ContainerWriter::Finish() {
  if (!status_.ok()) return status_;
  if (finished_) return absl::FailedPreconditionError("the container is finished already");
  if (!identity_.has_value()) {
    CPR_ASSIGN_OR_RETURN(identity_, CreateIdentity());
  }
  finished_ = true;
  header_.created_at_realtime_ns = identity_->created_at_realtime_ns;
  header_.state_id = identity_->state_id;
  const size_t trailer_at = out_->size();
  header_.body_bytes = trailer_at + kTrailerBytes - kHeaderBytes;
  StoreStateHeader(header_, out_);
  out_->append(kTrailerMagic.data(), kTrailerMagic.size());
  out_->resize(trailer_at + kTrailerBytes);
  StoreLe(static_cast<uint32_t>(taken_.size()), trailer_at + kTrailerCountAt, out_);
  StoreLe(TrailerCrc(*out_, header_.header_bytes, frames_crc_), trailer_at + kTrailerCrcAt, out_);
  return absl::OkStatus();
}

}  // namespace cpr
