#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/monitor/hmp_monitor.h"
#include "vmm/monitor/line_editor.h"
#include "vmm/monitor/port.h"
#include "vmm/monitor/qmp_monitor.h"

namespace cpr {
namespace {

// Both fds stay blocking: their flags are shared with the shell. One read after a readiness report does not block.
class StdioPort : public MonitorPort {
 public:
  StdioPort(EventLoop* loop, int in, int out) : loop_(loop), in_(in), out_(out) {}
  ~StdioPort() override { loop_->Unwatch(in_); }

  absl::Status Open(MonitorOptions::Protocol protocol, MonitorTarget* target);
  void OnEvent(const MonitorEvent& event) override { monitor_->OnEvent(event); }
  void Suspend() override;
  void Resume() override;
  bool connected() const override { return !ended_; }
  std::vector<int> fds() const override { return {}; }  // the terminal is the user's

 private:
  void Write(absl::string_view bytes);
  void Prompt();
  absl::Status WatchInput();
  void OnReadable();
  void ReadPlain();
  void ReadKey();
  void PostRead();

  EventLoop* const loop_;
  const int in_;
  const int out_;
  std::unique_ptr<LineEditor> editor_;  // on a terminal, for people
  std::unique_ptr<Monitor> monitor_;
  bool at_prompt_ = false;  // with an editor: it waits for keys
  bool suspended_ = false;
  bool ended_ = false;
  bool unpollable_ = false;  // a regular file, which is always readable
  // Work posted to the loop holds this weakly.
  const std::shared_ptr<StdioPort*> self_ = std::make_shared<StdioPort*>(this);
};

absl::Status StdioPort::Open(MonitorOptions::Protocol protocol, MonitorTarget* target) {
  const auto write = [this](absl::string_view bytes) { Write(bytes); };
  if (protocol == MonitorOptions::Protocol::kQmp) {
    monitor_ = std::make_unique<QmpMonitor>(target, write);
  } else if (::isatty(in_) != 0 && ::isatty(out_) != 0) {
    CPR_ASSIGN_OR_RETURN(editor_, LineEditor::Create(in_, out_, kHmpPrompt));
    monitor_ = std::make_unique<HmpMonitor>(target, write, [this] { Prompt(); });
  } else {
    monitor_ = std::make_unique<HmpMonitor>(target, write);
  }
  monitor_->Start();
  return editor_ != nullptr ? absl::OkStatus() : WatchInput();
}

// Nobody could be told that stdout is gone.
void StdioPort::Write(absl::string_view bytes) { (void)WriteAll(out_, bytes); }

void StdioPort::Prompt() {
  at_prompt_ = true;
  if (suspended_) return;
  editor_->Begin();
  (void)WatchInput();  // a terminal can be polled
}

absl::Status StdioPort::WatchInput() {
  const absl::Status status = loop_->Watch(in_, EPOLLIN, [this](uint32_t) { OnReadable(); });
  if (StatusErrno(status) != EPERM) return status;
  unpollable_ = true;
  PostRead();
  return absl::OkStatus();
}

void StdioPort::PostRead() {
  loop_->Post([self = std::weak_ptr<StdioPort*>(self_)] {
    if (const auto port = self.lock()) (*port)->OnReadable();
  });
}

void StdioPort::OnReadable() {
  if (suspended_ || ended_) return;
  if (editor_ != nullptr) return ReadKey();
  ReadPlain();
  if (unpollable_ && !ended_) PostRead();
}

void StdioPort::ReadPlain() {
  char buffer[4096];
  const ssize_t n = ::read(in_, buffer, sizeof(buffer));
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (n > 0) return monitor_->Receive(absl::string_view(buffer, static_cast<size_t>(n)));
  ended_ = true;  // the VM goes on without its monitor
  loop_->Unwatch(in_);
}

void StdioPort::ReadKey() {
  const auto input = editor_->ReadKey();
  if (!input.has_value()) return;
  at_prompt_ = false;
  loop_->Unwatch(in_);
  ended_ = input->ended;
  if (!ended_) monitor_->Receive(input->line + "\n");
}

void StdioPort::Suspend() {
  suspended_ = true;
  loop_->Unwatch(in_);
  if (editor_ != nullptr) editor_->End();
}

void StdioPort::Resume() {
  suspended_ = false;
  if (ended_) return;
  if (editor_ == nullptr) {
    (void)WatchInput();  // it could be watched before
  } else if (at_prompt_) {
    Prompt();
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<MonitorPort>> CreateStdioPort(MonitorOptions::Protocol protocol, MonitorTarget* target,
                                                             EventLoop* loop, int in, int out) {
  auto port = std::make_unique<StdioPort>(loop, in, out);
  CPR_RETURN_IF_ERROR(port->Open(protocol, target));
  return port;
}

}  // namespace cpr
