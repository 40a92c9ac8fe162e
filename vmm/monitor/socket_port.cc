#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/preserve/stream_socket.h"
#include "vmm/monitor/hmp_monitor.h"
#include "vmm/monitor/port.h"
#include "vmm/monitor/qmp_monitor.h"

namespace cpr {
namespace {

constexpr size_t kMaxFds = 16;                // in one message; QMP clients send one
constexpr size_t kReadPauseBytes = 64 << 10;  // unread answers from which on no requests are taken
constexpr size_t kDropBytes = 4 << 20;        // unread events after which a client is given up

// Bytes and descriptors of one recvmsg.
struct Received {
  std::string bytes;
  std::vector<UniqueFd> fds;
  bool ended = false;  // the peer has left, or what it sent cannot be taken
};

std::vector<UniqueFd> TakeRights(msghdr* message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* c = CMSG_FIRSTHDR(message); c != nullptr; c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

// nullopt: nothing there.
std::optional<Received> ReceiveSome(int socket) {
  char buffer[16 << 10];
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFds * sizeof(int))];
  iovec part = {buffer, sizeof(buffer)};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return std::nullopt;
  Received received;
  if (n > 0) received.fds = TakeRights(&message);
  received.ended = n <= 0 || (message.msg_flags & MSG_CTRUNC) != 0;
  if (n > 0) received.bytes.assign(buffer, static_cast<size_t>(n));
  return received;
}

class SocketPort : public MonitorPort {
 public:
  SocketPort(const MonitorOptions& options, MonitorTarget* target, EventLoop* loop)
      : options_(options), target_(target), loop_(loop) {}
  ~SocketPort() override {
    CloseClient();
    if (listener_.ok()) loop_->Unwatch(listener_.get());
    RemoveSocketFile();
  }

  absl::Status Open();
  void OnEvent(const MonitorEvent& event) override {
    if (monitor_ != nullptr) monitor_->OnEvent(event);
  }
  void Suspend() override;
  void Resume() override;
  bool connected() const override { return client_.ok(); }
  std::vector<int> fds() const override {
    std::vector<int> fds;
    if (listener_.ok()) fds.push_back(listener_.get());
    if (client_.ok()) fds.push_back(client_.get());
    return fds;
  }

 private:
  absl::Status WaitForClient();
  absl::Status WatchListener();
  void AcceptClient();
  void StartClient(UniqueFd client);
  void CloseClient();
  void OnClient(uint32_t events);
  void Send(absl::string_view bytes);
  void Flush();
  void UpdateWatch();
  void RemoveSocketFile() const;

  const MonitorOptions options_;
  MonitorTarget* const target_;
  EventLoop* const loop_;
  UniqueFd listener_;
  struct stat socket_file_ = {};
  UniqueFd client_;
  std::unique_ptr<Monitor> monitor_;  // while there is a client
  std::string unsent_;
  uint32_t watched_events_ = 0;
  bool broken_ = false;  // the client cannot be written to: it is closed by the loop, not from within its monitor
  bool suspended_ = false;
};

absl::Status SocketPort::Open() {
  const std::string& path = options_.chardev.path;
  if (!options_.chardev.server) {
    CPR_ASSIGN_OR_RETURN(UniqueFd client, ConnectUnixStream(path));
    StartClient(std::move(client));
    return absl::OkStatus();
  }
  CPR_ASSIGN_OR_RETURN(listener_, ListenUnixStream(path));
  if (::stat(path.c_str(), &socket_file_) < 0) return ErrnoStatus(errno, "stat " + path);
  if (options_.chardev.wait) return WaitForClient();
  return WatchListener();
}

absl::Status SocketPort::WaitForClient() {
  while (!client_.ok()) {
    pollfd poll = {listener_.get(), POLLIN, 0};
    if (::poll(&poll, 1, -1) < 0 && errno != EINTR) return ErrnoStatus(errno, "poll " + options_.chardev.path);
    AcceptClient();
  }
  return absl::OkStatus();
}

absl::Status SocketPort::WatchListener() {
  return loop_->Watch(listener_.get(), EPOLLIN, [this](uint32_t) { AcceptClient(); });
}

void SocketPort::AcceptClient() {
  // Errors are the client's: it left again, or it is another user's.
  if (auto client = AcceptStream(listener_.get()); client.ok()) StartClient(*std::move(client));
}

void SocketPort::StartClient(UniqueFd client) {
  if (listener_.ok()) loop_->Unwatch(listener_.get());
  client_ = std::move(client);
  const auto send = [this](absl::string_view bytes) { Send(bytes); };
  if (options_.protocol == MonitorOptions::Protocol::kQmp) {
    monitor_ = std::make_unique<QmpMonitor>(target_, send);
  } else {
    monitor_ = std::make_unique<HmpMonitor>(target_, send);
  }
  monitor_->Start();
  UpdateWatch();
}

void SocketPort::CloseClient() {
  if (!client_.ok()) return;
  loop_->Unwatch(client_.get());
  monitor_.reset();
  client_.Reset();
  unsent_.clear();
  watched_events_ = 0;
  broken_ = false;
}

void SocketPort::OnClient(uint32_t events) {
  if ((events & EPOLLOUT) != 0) Flush();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    std::optional<Received> received = ReceiveSome(client_.get());
    if (received.has_value()) {
      for (UniqueFd& fd : received->fds) monitor_->ReceiveFd(std::move(fd));
      if (!received->bytes.empty()) monitor_->Receive(received->bytes);
      broken_ = broken_ || received->ended;
    }
  }
  if (!broken_) return UpdateWatch();
  CloseClient();
  if (listener_.ok() && !suspended_) (void)WatchListener();  // it was watched before
}

void SocketPort::Send(absl::string_view bytes) {
  unsent_.append(bytes.data(), bytes.size());
  Flush();
  if (unsent_.size() > kDropBytes) {
    broken_ = true;
    ::shutdown(client_.get(), SHUT_RDWR);  // wakes the loop, which closes it
  }
  UpdateWatch();
}

void SocketPort::Flush() {
  while (!unsent_.empty()) {
    const ssize_t n = ::send(client_.get(), unsent_.data(), unsent_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) {
      broken_ = true;
      unsent_.clear();
      return;
    }
    unsent_.erase(0, static_cast<size_t>(n));
  }
}

void SocketPort::UpdateWatch() {
  uint32_t events = 0;
  if (!suspended_) {
    events |= unsent_.size() < kReadPauseBytes ? EPOLLIN : 0u;
    events |= unsent_.empty() ? 0u : EPOLLOUT;
  }
  if (events == watched_events_) return;
  watched_events_ = events;
  if (events == 0) return loop_->Unwatch(client_.get());
  // A socket can always be polled; were it not so, the client would hang, and nothing else.
  (void)loop_->Watch(client_.get(), events, [this](uint32_t reported) { OnClient(reported); });
}

void SocketPort::Suspend() {
  suspended_ = true;
  if (client_.ok()) {
    Flush();
    UpdateWatch();
  } else if (listener_.ok()) {
    loop_->Unwatch(listener_.get());
  }
}

void SocketPort::Resume() {
  suspended_ = false;
  if (client_.ok()) {
    UpdateWatch();
  } else if (listener_.ok()) {
    (void)WatchListener();
  }
}

// Another VMM may have put its own socket there meanwhile.
void SocketPort::RemoveSocketFile() const {
  struct stat now;
  if (!listener_.ok() || ::stat(options_.chardev.path.c_str(), &now) < 0) return;
  if (now.st_dev == socket_file_.st_dev && now.st_ino == socket_file_.st_ino) ::unlink(options_.chardev.path.c_str());
}

}  // namespace

absl::StatusOr<std::unique_ptr<MonitorPort>> CreateSocketPort(const MonitorOptions& options, MonitorTarget* target,
                                                              EventLoop* loop) {
  auto port = std::make_unique<SocketPort>(options, target, loop);
  CPR_RETURN_IF_ERROR(port->Open());
  return port;
}

}  // namespace cpr
