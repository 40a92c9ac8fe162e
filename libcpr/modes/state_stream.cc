#include "libcpr/modes/state_stream.h"

#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/own_sections.h"
#include "libcpr/modes/state_memfd.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/proto_payload.h"

namespace cpr {
namespace {

constexpr size_t kChunkBytes = 1 << 20;
constexpr size_t kPageBytes = 4096;
// What one Pump does, so that the embedder's loop gets its turn.
constexpr uint64_t kStepBytes = 64 << 20;

bool IsZero(absl::string_view bytes) {
  return bytes[0] == 0 && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

uint64_t HostRamBytes() {
  struct sysinfo info;
  return ::sysinfo(&info) == 0 ? uint64_t{info.totalram} * info.mem_unit : ~uint64_t{0};
}

// Where the RAM that `reader`'s state carries ends in its file; the container's own end if it carries none.
absl::StatusOr<uint64_t> EndOfRam(const ContainerReader& reader) {
  uint64_t end_bytes = reader.header().total_bytes();
  uint64_t ram_bytes = 0;
  for (const ContainerReader::View& view : reader.sections()) {
    if (view.info.name != kRamCopySection) continue;
    CPR_ASSIGN_OR_RETURN(const v1::RamCopyState copy,
                         DecodeProto<v1::RamCopyState>(view.payload, view.info.version, kOwnVersion));
    for (const v1::RamExtent& extent : copy.extents()) {
      if (extent.size_bytes() > ~extent.file_offset_bytes())
        return absl::DataLossError("an extent of RAM wraps around");
      end_bytes = std::max(end_bytes, extent.file_offset_bytes() + extent.size_bytes());
      ram_bytes += std::min(extent.size_bytes(), ~ram_bytes);
    }
  }
  if (ram_bytes <= HostRamBytes()) return end_bytes;
  return absl::ResourceExhaustedError(
      absl::StrCat("the state carries ", ram_bytes, " bytes of RAM, which is more than this host has"));
}

}  // namespace

void StateStreamWriter::Append(absl::string_view bytes) {
  if (!bytes.empty()) pending_.push_back(bytes);
}

absl::StatusOr<bool> StateStreamWriter::Pump() {
  for (const uint64_t until = written_bytes_ + kStepBytes; !pending_.empty() && written_bytes_ < until;) {
    absl::string_view& next = pending_.front();
    const ssize_t n = WriteWithoutSignal(stream_.get(), next.substr(0, kStepBytes));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) {
      return absl::AbortedError(absl::StrCat("nobody read on after ", written_bytes_, " bytes of the state"));
    }
    if (n < 0) return ErrnoStatus(errno, "write of the state");
    written_bytes_ += static_cast<uint64_t>(n);
    next.remove_prefix(static_cast<size_t>(n));
    if (next.empty()) pending_.pop_front();
  }
  return pending_.empty();
}

absl::Status StateStreamWriter::Close() {
  struct stat info;
  const bool regular = ::fstat(stream_.get(), &info) == 0 && S_ISREG(info.st_mode);
  if (regular && ::fsync(stream_.get()) != 0) return ErrnoStatus(errno, "fsync of the state");
  stream_.Reset();
  return absl::OkStatus();
}

absl::StatusOr<StateStreamReader> StateStreamReader::Create(UniqueFd stream) {
  CPR_ASSIGN_OR_RETURN(UniqueFd state, CreateStateMemfd());
  return StateStreamReader(std::move(stream), std::move(state));
}

absl::StatusOr<bool> StateStreamReader::Pump() {
  buffer_.resize(kChunkBytes);
  for (const uint64_t until = have_bytes_ + kStepBytes; have_bytes_ < until;) {
    CPR_RETURN_IF_ERROR(ReadOn());
    // One byte more than is wanted shows that the stream goes on.
    const size_t wanted = std::min<uint64_t>(end_bytes_ - have_bytes_ + (at_ == At::kRam ? 1 : 0), kChunkBytes);
    const ssize_t n = ::read(stream_.get(), buffer_.data(), wanted);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    if (n < 0) return ErrnoStatus(errno, "read of the state");
    if (n == 0) {
      ended_ = true;
      CPR_RETURN_IF_ERROR(EndOfStream());
      return true;
    }
    CPR_RETURN_IF_ERROR(Store(absl::string_view(buffer_.data(), static_cast<size_t>(n))));
  }
  return false;
}

absl::Status StateStreamReader::ReadOn() {
  if (end_bytes_ == 0) end_bytes_ = kHeaderBytes;
  while (at_ != At::kRam && have_bytes_ >= end_bytes_) {
    std::string bytes(have_bytes_, '\0');
    CPR_RETURN_IF_ERROR(PreadAll(state_.get(), bytes.data(), bytes.size(), 0));
    if (at_ == At::kHeader) {
      CPR_ASSIGN_OR_RETURN(const StateHeader header, ContainerReader::ParseHeader(bytes));
      end_bytes_ = header.total_bytes();
      at_ = At::kContainer;
    } else {
      CPR_ASSIGN_OR_RETURN(const ContainerReader reader, ContainerReader::Parse(bytes));
      CPR_ASSIGN_OR_RETURN(end_bytes_, EndOfRam(reader));
      at_ = At::kRam;
    }
  }
  if (have_bytes_ <= end_bytes_) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("the stream goes on behind the state, which has ", end_bytes_, " bytes"));
}

// Page by page, as the file counts them: zeros are left out, and data is written in runs.
absl::Status StateStreamReader::Store(absl::string_view bytes) {
  const auto page_end = [this](size_t at, size_t size) {
    return std::min<size_t>(size, at + kPageBytes - (have_bytes_ + at) % kPageBytes);
  };
  for (size_t at = 0; at < bytes.size();) {
    size_t end = at;
    while (end < bytes.size() && !IsZero(bytes.substr(end, page_end(end, bytes.size()) - end))) {
      end = page_end(end, bytes.size());
    }
    if (end > at) CPR_RETURN_IF_ERROR(PwriteAll(state_.get(), bytes.substr(at, end - at), have_bytes_ + at));
    at = end < bytes.size() ? page_end(end, bytes.size()) : end;
  }
  have_bytes_ += bytes.size();
  if (::ftruncate(state_.get(), static_cast<off_t>(have_bytes_)) != 0)
    return ErrnoStatus(errno, "ftruncate of the state");
  return absl::OkStatus();
}

absl::Status StateStreamReader::EndOfStream() {
  if (at_ == At::kRam && have_bytes_ == end_bytes_) return absl::OkStatus();
  if (at_ != At::kHeader) {
    return absl::DataLossError(absl::StrCat("the state is cut: ", have_bytes_, " of ", end_bytes_, " bytes"));
  }
  std::string bytes(have_bytes_, '\0');
  CPR_RETURN_IF_ERROR(PreadAll(state_.get(), bytes.data(), bytes.size(), 0));
  CPR_RETURN_IF_ERROR(ContainerReader::ParseHeader(bytes).status());  // says what it is instead
  return absl::DataLossError(absl::StrCat("the state is cut: it has ", have_bytes_, " bytes"));
}

}  // namespace cpr
