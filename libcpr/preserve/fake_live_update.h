#ifndef LIBCPR_PRESERVE_FAKE_LIVE_UPDATE_H_
#define LIBCPR_PRESERVE_FAKE_LIVE_UPDATE_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>

#include "libcpr/base/ioctl_function.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/preserve/live_update_uapi.h"

namespace cpr::testing {

// Stands in for the kernel's Live Update orchestrator, with the rules of kernel/liveupdate: sessions by name, of this
// kernel for the next one and of the one before; files of memfds alone. Thread-compatible.
class FakeLiveUpdate {
 public:
  // What processes call, this kernel's and the next one's alike.
  IoctlFunction Ioctl();
  // From now on `request` is refused with `error`, but for the next `after` of them.
  void Refuse(unsigned long request, int error, size_t after = 0);  // NOLINT(google-runtime-int)
  // Another kernel takes this one's place: the sessions that somebody has open go over, as other files of the same
  // bytes. Descriptors of this kernel's that a test still has mean nothing to it.
  void Kexec();
  // Whether this kernel has the session for the next one.
  bool Has(const std::string& name) const;

 private:
  struct Session {
    std::map<uint64_t, UniqueFd> files;  // by token
    int fd = -1;
    ino_t inode = 0;
    bool retrieved = false;
    bool IsOpen() const;
  };

  int Answer(int fd, unsigned long request, void* argument);  // NOLINT(google-runtime-int)
  bool IsRefused(unsigned long request);                      // NOLINT(google-runtime-int)
  Session* Find(int fd);
  static int Opened(Session& session, int32_t* fd);
  int Create(LiveUpdateNamed& named);
  int Retrieve(LiveUpdateNamed& named);
  static int Preserve(Session& session, const LiveUpdateFd& preserve);
  static int RetrieveFd(Session& session, LiveUpdateFd& retrieve);
  static int Finish(Session& session, const LiveUpdateFinish& finish);

  unsigned long refused_ = 0;  // NOLINT(google-runtime-int)
  int error_ = 0;
  size_t after_ = 0;
  std::map<std::string, Session> sessions_, old_sessions_;
};

}  // namespace cpr::testing

#endif  // LIBCPR_PRESERVE_FAKE_LIVE_UPDATE_H_
