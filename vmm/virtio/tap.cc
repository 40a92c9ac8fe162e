#include "vmm/virtio/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libcpr/base/ioctl.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

static_assert(Tap::kMaxParts + 1 <= IOV_MAX);

std::vector<iovec> VectorsOf(absl::Span<const absl::Span<uint8_t>> buffers) {
  std::vector<iovec> vectors;
  for (const absl::Span<uint8_t> buffer : buffers) vectors.push_back({buffer.data(), buffer.size()});
  return vectors;
}

absl::Status SetHeaderBytes(int fd) {
  int header_bytes = Tap::kHeaderBytes;
  return CPR_IOCTL(fd, TUNSETVNETHDRSZ, &header_bytes).status();
}

}  // namespace

absl::StatusOr<Tap> Tap::Create(const std::string& name) {
  UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!fd.ok()) return ErrnoStatus(errno, "could not open /dev/net/tun");
  ifreq request = {};
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  std::memcpy(request.ifr_name, name.data(), std::min(name.size(), sizeof(request.ifr_name) - 1));
  if (::ioctl(fd.get(), TUNSETIFF, &request) < 0) {
    return ErrnoStatus(errno, absl::StrCat("could not configure /dev/net/tun (", name.empty() ? "tap%d" : name, ")"));
  }
  CPR_RETURN_IF_ERROR(SetHeaderBytes(fd.get()));
  return Tap(std::move(fd), request.ifr_name);
}

absl::StatusOr<Tap> Tap::Adopt(UniqueFd fd) {
  ifreq request = {};
  if (::ioctl(fd.get(), TUNGETIFF, &request) < 0) {
    return absl::FailedPreconditionError("the fd is not that of a tap");
  }
  const std::string name = request.ifr_name;
  const auto unfit = [&](absl::string_view why) {
    return absl::FailedPreconditionError(absl::StrCat(name, ": ", why));
  };
  if ((request.ifr_flags & IFF_TAP) == 0) return unfit("is a tun interface, not a tap");
  // That there is no tun_pi cannot be asked: IFF_NO_PI and IFF_NOFILTER are one bit.
  if ((request.ifr_flags & IFF_VNET_HDR) == 0)
    return unfit("its frames have no virtio_net_hdr, IFF_VNET_HDR is needed");
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) < 0) return ErrnoStatus(errno, name);
  CPR_RETURN_IF_ERROR(SetHeaderBytes(fd.get()));
  return Tap(std::move(fd), name);
}

absl::Status Tap::SetOffloads(unsigned tun_flags) const {
  if (::ioctl(fd_.get(), TUNSETOFFLOAD, static_cast<unsigned long>(tun_flags)) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrCat("TUNSETOFFLOAD ", name_));
}

absl::StatusOr<size_t> Tap::Read(absl::Span<const absl::Span<uint8_t>> buffers) const {
  std::vector<iovec> vectors = VectorsOf(buffers);
  if (vectors.size() > kMaxParts) return absl::InvalidArgumentError("a frame in too many parts");
  char beyond;  // a byte that gets there says that the frame was longer
  vectors.push_back({&beyond, sizeof(beyond)});
  ssize_t n;
  do {
    n = ::readv(fd_.get(), vectors.data(), static_cast<int>(vectors.size()));
  } while (n < 0 && errno == EINTR);
  if (n >= 0) return static_cast<size_t>(n);
  if (errno == EAGAIN) return 0;
  return ErrnoStatus(errno, absl::StrCat("read ", name_));
}

absl::Status Tap::Write(absl::Span<const absl::Span<uint8_t>> buffers) const {
  const std::vector<iovec> vectors = VectorsOf(buffers);
  if (vectors.size() > kMaxParts) return absl::InvalidArgumentError("a frame in too many parts");
  ssize_t n;
  do {
    n = ::writev(fd_.get(), vectors.data(), static_cast<int>(vectors.size()));
  } while (n < 0 && errno == EINTR);
  return n >= 0 ? absl::OkStatus() : ErrnoStatus(errno, absl::StrCat("write ", name_));
}

}  // namespace cpr
