#ifndef LIBCPR_BASE_UNIQUE_FD_H_
#define LIBCPR_BASE_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace cpr {

// Owns one file descriptor and closes it. Thread-compatible.
// A parameter of type UniqueFd takes ownership; a plain `int fd` is lent for the call.
class [[nodiscard]] UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    Reset(other.Release());
    return *this;
  }
  ~UniqueFd() { Reset(); }

  // The descriptor, or -1. Lent: the object still owns it.
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }

  // Gives the descriptor away; the caller owns it from here on.
  [[nodiscard]] int Release() { return std::exchange(fd_, -1); }

  // Closes what is held and takes `fd`. A close that EINTR interrupts is not repeated: on Linux the number is free.
  void Reset(int fd = -1) {
    if (const int old = std::exchange(fd_, fd); old >= 0) ::close(old);
  }

 private:
  int fd_ = -1;
};

}  // namespace cpr

#endif  // LIBCPR_BASE_UNIQUE_FD_H_
