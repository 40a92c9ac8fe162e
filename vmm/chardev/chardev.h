#ifndef VMM_CHARDEV_CHARDEV_H_
#define VMM_CHARDEV_CHARDEV_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/mutex.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/preserve/fd_kind.h"
#include "vmm/chardev/config.h"
#include "vmm/chardev/endpoints.h"
#include "vmm/chardev/output.h"
#include "vmm/event_loop/event_loop.h"

namespace cpr {

// The device that input goes to. All are called on the event loop's thread, without locks held.
struct ChardevCallbacks {
  std::function<size_t()> room;                         // bytes that the device takes now
  std::function<void(absl::string_view data)> receive;  // never more than `room` just said
  // A socket's client came or went; may be empty. Who was there before is for connected() to say.
  std::function<void(bool connected)> connection;
};

// A descriptor that has to outlive this VMM, under the name that Adopt knows it by. Lent.
struct ChardevFd {
  std::string name;
  FdKind kind;
  int fd;
};

// What is not in a descriptor.
struct ChardevState {
  std::string unwritten;        // accepted from the guest, not yet written
  uint64_t dropped_bytes = 0;   // lost because nobody read, since the guest began
  std::optional<TtyModes> tty;  // stdio: the terminal's modes before the first VMM changed them

  friend bool operator==(const ChardevState&, const ChardevState&) = default;
};

// A character device's host side: stdio, a file, a unix socket, a pty, or nothing.
// Write and AcceptInput are thread-safe; all else must be called on the event loop's thread.
//
// Output never makes a vCPU wait. Into a regular file it is written at once; elsewhere what the reader does not take
// is kept, up to Output::kLimitBytes, and after that dropped and counted. So is everything while a socket has no
// client, as in QEMU. Input stays in the kernel until the device has room, so a handover loses none.
// The process must ignore SIGPIPE: stdout may be a pipe.
//
// In a handover, old side: HoldConnections, Fds (prepare); Quiesce (stop); Save (save); then ReleaseToPeer, or
// Resume if it was called off. New side: Adopt (prepare), Restore (save), Resume. For new VMMs that get no fds
// (cpr-reboot): Create (with append for files), Quiesce, Restore, Resume.
class Chardev {
 public:
  // `loop` must outlive the device.
  static absl::StatusOr<std::unique_ptr<Chardev>> Create(const ChardevConfig& config, EventLoop* loop);
  // Takes `fds` over, also when an error is returned. Neither cuts a connected client nor truncates a file. Starts
  // quiesced. kFailedPrecondition: an fd is missing, unknown or of the wrong type.
  static absl::StatusOr<std::unique_ptr<Chardev>> Adopt(const ChardevConfig& config,
                                                        std::map<std::string, UniqueFd> fds, EventLoop* loop);
  // Writes what can be written unless it is quiesced (the saved state has it then), gives a terminal its modes back and
  // removes the socket's file, if it is still ours.
  ~Chardev();
  Chardev(const Chardev&) = delete;
  Chardev& operator=(const Chardev&) = delete;

  // Nothing is read before this is called. Empty callbacks end reading.
  void SetCallbacks(ChardevCallbacks callbacks);

  // Takes all of `data`. Thread-safe, never waits.
  void Write(absl::string_view data);
  // The device has room again. Thread-safe, cheap when input was not waiting.
  void AcceptInput();

  // No client is accepted from here to Resume, so that Fds stay what they are; who connects meanwhile waits in the
  // listener's queue and is accepted by whoever has it then.
  void HoldConnections();
  // Neither reads nor writes nor accepts from here to Resume.
  void Quiesce();
  void Resume();

  std::vector<ChardevFd> Fds() const;
  ChardevState Save() const;
  // Replaces what was not written yet; call it before anything is.
  // kDataLoss: `state` cannot be any chardev's; nothing has changed then.
  absl::Status Restore(const ChardevState& state);
  // The new VMM has the fds: the destructor neither writes nor touches terminal and socket file.
  void ReleaseToPeer();

  const ChardevConfig& config() const { return config_; }
  // True unless this is a socket without a client.
  bool connected() const;
  // As query-chardev's `filename`: "pty:/dev/pts/3", "disconnected:unix:/run/x,server=on".
  std::string Describe() const;

 private:
  struct SocketFile {
    uint64_t device, inode;
  };

  Chardev(const ChardevConfig& config, Endpoints endpoints, EventLoop* loop, bool quiesced);
  void PostUpdate();
  void UpdateWatches();
  void PostRead();
  void SetWatched(int fd, bool want, uint32_t events, bool* watched, void (Chardev::*callback)());
  void ReadInput();
  size_t RoomOrThrottle();
  void EndOfInput();
  void AcceptClient();
  void Disconnect();
  void FlushOutput();
  void NoteSocketFile();
  void RemoveSocketFile() const;

  const ChardevConfig config_;
  EventLoop* const loop_;
  // Work posted to the loop holds this weakly: it must not find a dead device.
  const std::shared_ptr<Chardev*> self_;
  Endpoints endpoints_;  // but `out`, which output_ owns
  ChardevCallbacks callbacks_;
  std::optional<SocketFile> socket_file_;
  bool hold_connections_ = false;
  bool released_ = false;
  bool read_posted_ = false;
  bool watching_in_ = false, watching_out_ = false, watching_listener_ = false;
  std::atomic<bool> throttled_{false};

  mutable Mutex mutex_;
  Output output_ ABSL_GUARDED_BY(mutex_);
  bool quiesced_ ABSL_GUARDED_BY(mutex_);
  bool blocked_ ABSL_GUARDED_BY(mutex_) = false;  // output waits for EPOLLOUT
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;   // output's reader is gone
};

}  // namespace cpr

#endif  // VMM_CHARDEV_CHARDEV_H_
