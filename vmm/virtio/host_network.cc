#include "vmm/virtio/host_network.h"

#include <arpa/inet.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "libcpr/base/ioctl.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr::testing {
namespace {

constexpr uint16_t kProtocol = 0x88b5;  // for local experiments
constexpr size_t kHeaderBytes = 14, kMinFrameBytes = 60;

ifreq RequestOf(const std::string& interface) {
  ifreq request = {};
  std::memcpy(request.ifr_name, interface.data(), std::min(interface.size(), sizeof(request.ifr_name) - 1));
  return request;
}

}  // namespace

absl::Status EnterNewNetwork() {
  if (::unshare(CLONE_NEWNET) != 0) return ErrnoStatus(errno, "unshare(CLONE_NEWNET)");
  // An interface that is switched on says so to its neighbours: not here. Without IPv6 there is nothing to switch off.
  std::ofstream("/proc/sys/net/ipv6/conf/default/disable_ipv6") << "1";
  return absl::OkStatus();
}

absl::StatusOr<HostEnd> HostEnd::Create(const std::string& interface) {
  UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(kProtocol)));
  if (!socket.ok()) return ErrnoStatus(errno, "socket(AF_PACKET)");
  ifreq request = RequestOf(interface);
  CPR_RETURN_IF_ERROR(CPR_IOCTL(socket.get(), SIOCGIFFLAGS, &request).status());
  request.ifr_flags |= IFF_UP;
  CPR_RETURN_IF_ERROR(CPR_IOCTL(socket.get(), SIOCSIFFLAGS, &request).status());
  CPR_RETURN_IF_ERROR(CPR_IOCTL(socket.get(), SIOCGIFINDEX, &request).status());
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(kProtocol);
  address.sll_ifindex = request.ifr_ifindex;
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0) {
    return ErrnoStatus(errno, "bind");
  }
  return HostEnd(std::move(socket), interface);
}

std::string HostEnd::Frame(absl::string_view text) {
  std::string frame(kHeaderBytes - sizeof(kProtocol), '\xff');
  frame.push_back(static_cast<char>(kProtocol >> 8));
  frame.push_back(static_cast<char>(kProtocol & 0xff));
  frame.append(text.data(), text.size());
  if (frame.size() < kMinFrameBytes) frame.resize(kMinFrameBytes);
  return frame;
}

absl::Status HostEnd::Send(absl::string_view frame) const {
  const ssize_t n = ::send(socket_.get(), frame.data(), frame.size(), 0);
  return n == static_cast<ssize_t>(frame.size()) ? absl::OkStatus() : ErrnoStatus(errno, "send");
}

absl::StatusOr<std::string> HostEnd::Receive() const {
  std::string frame(65536, '\0');
  sockaddr_ll from;
  do {
    socklen_t size = sizeof(from);
    const ssize_t n =
        ::recvfrom(socket_.get(), frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&from), &size);
    if (n < 0) return ErrnoStatus(errno, "recvfrom");
    frame.resize(static_cast<size_t>(n));
  } while (from.sll_pkttype == PACKET_OUTGOING);
  return frame;
}

absl::StatusOr<bool> HostEnd::ChecksumsLeftToTap() const {
  ethtool_value value = {.cmd = ETHTOOL_GTXCSUM, .data = 0};
  ifreq request = RequestOf(interface_);
  request.ifr_data = reinterpret_cast<char*>(&value);
  CPR_RETURN_IF_ERROR(CPR_IOCTL(socket_.get(), SIOCETHTOOL, &request).status());
  return value.data != 0;
}

}  // namespace cpr::testing
