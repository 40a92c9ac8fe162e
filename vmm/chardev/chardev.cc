#include "vmm/chardev/chardev.h"

#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/preserve/stream_socket.h"

namespace cpr {
namespace {

using Kind = ChardevConfig::Kind;
constexpr size_t kReadBytes = 4096;

// `file:` may name a fifo or a device as well.
FdKind KindOfFile(int fd) {
  for (const FdKind kind : {FdKind::kFile, FdKind::kPipe, FdKind::kTty, FdKind::kMemfd}) {
    if (CheckFdKind(fd, kind).ok()) return kind;
  }
  return FdKind::kCharDevice;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Chardev>> Chardev::Create(const ChardevConfig& config, EventLoop* loop) {
  CPR_ASSIGN_OR_RETURN(Endpoints endpoints, OpenEndpoints(config));
  return std::unique_ptr<Chardev>(new Chardev(config, std::move(endpoints), loop, /*quiesced=*/false));
}

absl::StatusOr<std::unique_ptr<Chardev>> Chardev::Adopt(const ChardevConfig& config,
                                                        std::map<std::string, UniqueFd> fds, EventLoop* loop) {
  CPR_ASSIGN_OR_RETURN(Endpoints endpoints, AdoptEndpoints(config, std::move(fds)));
  return std::unique_ptr<Chardev>(new Chardev(config, std::move(endpoints), loop, /*quiesced=*/true));
}

Chardev::Chardev(const ChardevConfig& config, Endpoints endpoints, EventLoop* loop, bool quiesced)
    : config_(config),
      loop_(loop),
      self_(std::make_shared<Chardev*>(this)),
      endpoints_(std::move(endpoints)),
      quiesced_(quiesced) {
  if (endpoints_.out.ok()) output_.Attach(std::move(endpoints_.out));
  if (!quiesced) NoteSocketFile();
  UpdateWatches();
}

Chardev::~Chardev() {
  callbacks_ = {};  // the device may be gone already
  {
    // A quiesced device's output lies in the saved state, or came from it: it is another's to write.
    MutexLock lock(&mutex_);
    if (!quiesced_) output_.Flush();
  }
  Quiesce();
  if (released_) return;
  if (endpoints_.tty.has_value()) RestoreTty(STDIN_FILENO, *endpoints_.tty);
  RemoveSocketFile();
}

void Chardev::NoteSocketFile() {
  struct stat info;
  if (!endpoints_.listener.ok() || ::lstat(config_.path.c_str(), &info) < 0) return;
  socket_file_ = SocketFile{info.st_dev, info.st_ino};
}

void Chardev::RemoveSocketFile() const {
  struct stat info;
  if (!socket_file_.has_value() || ::lstat(config_.path.c_str(), &info) < 0) return;
  if (info.st_dev == socket_file_->device && info.st_ino == socket_file_->inode) ::unlink(config_.path.c_str());
}

void Chardev::SetCallbacks(ChardevCallbacks callbacks) {
  callbacks_ = std::move(callbacks);
  throttled_ = false;
  UpdateWatches();
}

void Chardev::Write(absl::string_view data) {
  MutexLock lock(&mutex_);
  output_.Queue(data);
  // While it waits for EPOLLOUT another try is futile, except for a disk that was full: no event tells of it.
  if (quiesced_ || output_.unwritten().empty() || (blocked_ && config_.kind != Kind::kFile)) return;
  const Output::Result result = output_.Flush();
  const bool was_blocked = std::exchange(blocked_, result == Output::Result::kBlocked);
  broken_ = broken_ || result == Output::Result::kBroken;
  if (blocked_ != was_blocked || broken_) PostUpdate();
}

void Chardev::AcceptInput() {
  if (throttled_.exchange(false)) PostUpdate();
}

void Chardev::PostUpdate() {
  loop_->Post([weak = std::weak_ptr<Chardev*>(self_)] {
    if (const auto self = weak.lock()) (*self)->UpdateWatches();
  });
}

void Chardev::UpdateWatches() {
  bool quiesced, blocked, broken;
  int out;
  {
    MutexLock lock(&mutex_);
    quiesced = quiesced_;
    blocked = blocked_;
    broken = std::exchange(broken_, false);
    out = output_.fd();
  }
  if (broken && config_.kind == Kind::kSocket) return Disconnect();
  const bool read = !quiesced && endpoints_.in.ok() && callbacks_.receive != nullptr && !throttled_;
  SetWatched(endpoints_.in.get(), read, EPOLLIN, &watching_in_, &Chardev::ReadInput);
  SetWatched(out, !quiesced && blocked, EPOLLOUT, &watching_out_, &Chardev::FlushOutput);
  const bool accept = !quiesced && !hold_connections_ && endpoints_.listener.ok() && !endpoints_.in.ok();
  SetWatched(endpoints_.listener.get(), accept, EPOLLIN, &watching_listener_, &Chardev::AcceptClient);
}

void Chardev::SetWatched(int fd, bool want, uint32_t events, bool* watched, void (Chardev::*callback)()) {
  if (*watched == want) return;
  *watched = want;
  if (!want) return loop_->Unwatch(fd);
  const absl::Status status = loop_->Watch(fd, events, [this, callback](uint32_t) { (this->*callback)(); });
  if (status.ok()) return;
  // A regular file or /dev/null: a full disk (output) gets its next try with the next write.
  *watched = false;
  if (events == EPOLLIN) PostRead();
}

// stdin is a file, which epoll does not know: always ready, so it is looked at once a round.
void Chardev::PostRead() {
  if (std::exchange(read_posted_, true)) return;
  loop_->Post([weak = std::weak_ptr<Chardev*>(self_)] {
    const auto self = weak.lock();
    if (!self) return;
    (*self)->read_posted_ = false;
    (*self)->ReadInput();
    (*self)->UpdateWatches();
  });
}

size_t Chardev::RoomOrThrottle() {
  if (callbacks_.receive == nullptr) return 0;
  size_t room = callbacks_.room();
  if (room > 0) return room;
  // The device may have made room just before it could see that we wait: announce first, then look again.
  throttled_ = true;
  room = callbacks_.room();
  if (room > 0) throttled_ = false;
  return room;
}

void Chardev::ReadInput() {
  if (MutexLock lock(&mutex_); quiesced_) return;
  char data[kReadBytes];
  const size_t room = std::min(RoomOrThrottle(), sizeof(data));
  if (room == 0 || !endpoints_.in.ok()) return UpdateWatches();
  const ssize_t n = ::read(endpoints_.in.get(), data, room);
  if (n > 0) return callbacks_.receive(absl::string_view(data, static_cast<size_t>(n)));
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  EndOfInput();
}

void Chardev::EndOfInput() {
  if (config_.kind == Kind::kSocket) return Disconnect();
  if (std::exchange(watching_in_, false)) loop_->Unwatch(endpoints_.in.get());
  endpoints_.in.Reset();
}

void Chardev::AcceptClient() {
  absl::StatusOr<UniqueFd> client = AcceptStream(endpoints_.listener.get());
  if (!client.ok()) return;
  absl::StatusOr<UniqueFd> out = DupFd(client->get());
  if (!out.ok()) return;
  endpoints_.in = *std::move(client);
  throttled_ = false;
  {
    MutexLock lock(&mutex_);
    output_.Attach(*std::move(out));
  }
  UpdateWatches();
  if (callbacks_.connection) callbacks_.connection(true);
}

void Chardev::Disconnect() {
  if (std::exchange(watching_in_, false)) loop_->Unwatch(endpoints_.in.get());
  {
    MutexLock lock(&mutex_);
    if (std::exchange(watching_out_, false)) loop_->Unwatch(output_.fd());
    output_.Detach();
    blocked_ = false;
  }
  const bool was_connected = endpoints_.in.ok();
  endpoints_.in.Reset();
  UpdateWatches();
  if (was_connected && callbacks_.connection) callbacks_.connection(false);
}

void Chardev::FlushOutput() {
  {
    MutexLock lock(&mutex_);
    if (quiesced_) return;
    const Output::Result result = output_.Flush();
    blocked_ = result == Output::Result::kBlocked;
    broken_ = result == Output::Result::kBroken;
  }
  UpdateWatches();
}

void Chardev::HoldConnections() {
  hold_connections_ = true;
  UpdateWatches();
}

void Chardev::Quiesce() {
  {
    MutexLock lock(&mutex_);
    quiesced_ = true;
  }
  UpdateWatches();
}

void Chardev::Resume() {
  hold_connections_ = false;
  // One that was adopted is the old side's to remove until here.
  if (!socket_file_.has_value()) NoteSocketFile();
  {
    MutexLock lock(&mutex_);
    quiesced_ = false;
  }
  FlushOutput();
}

std::vector<ChardevFd> Chardev::Fds() const {
  std::vector<ChardevFd> fds;
  if (endpoints_.listener.ok()) fds.push_back({kListenerFd, FdKind::kListener, endpoints_.listener.get()});
  if (config_.kind == Kind::kSocket && endpoints_.in.ok()) {
    fds.push_back({kClientFd, FdKind::kSocket, endpoints_.in.get()});
  }
  if (config_.kind == Kind::kPty) fds.push_back({kPtyFd, FdKind::kTty, endpoints_.in.get()});
  MutexLock lock(&mutex_);
  if (config_.kind == Kind::kFile) fds.push_back({kFileFd, KindOfFile(output_.fd()), output_.fd()});
  return fds;
}

ChardevState Chardev::Save() const {
  MutexLock lock(&mutex_);
  return {std::string(output_.unwritten()), output_.dropped_bytes(), endpoints_.tty};
}

absl::Status Chardev::Restore(const ChardevState& state) {
  if (state.unwritten.size() > Output::kLimitBytes) {
    return absl::DataLossError(
        absl::StrCat("chardev state holds ", state.unwritten.size(), " unwritten bytes, limit ", Output::kLimitBytes));
  }
  if (state.tty.has_value() && state.tty->control_chars.size() != kTtyControlChars) {
    return absl::DataLossError("chardev state holds a terminal of another kind");
  }
  // After execve the terminal is as the old program left it: raw. Its modes from before that are the ones to give
  // back. A terminal found in its normal modes is another one.
  if (state.tty.has_value() && endpoints_.tty.has_value() && !endpoints_.tty->canonical()) endpoints_.tty = state.tty;
  MutexLock lock(&mutex_);
  const bool has_reader = output_.fd() >= 0;
  output_.Restore(has_reader ? absl::string_view(state.unwritten) : absl::string_view(),
                  state.dropped_bytes + (has_reader ? 0 : state.unwritten.size()));
  return absl::OkStatus();
}

void Chardev::ReleaseToPeer() {
  Quiesce();
  released_ = true;
}

bool Chardev::connected() const { return config_.kind != Kind::kSocket || endpoints_.in.ok(); }

std::string Chardev::Describe() const { return absl::StrCat(connected() ? "" : "disconnected:", endpoints_.shown); }

}  // namespace cpr
