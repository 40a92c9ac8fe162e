#include "vmm/chardev/tty.h"

#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace cpr {

const size_t kTtyControlChars = NCCS;

bool TtyModes::canonical() const { return (lflag & ICANON) != 0; }

std::optional<TtyModes> MakeTtyRaw(int fd) {
  termios tty;
  // A background job that sets modes would be stopped by SIGTTOU, and the terminal is not its own to change.
  if (::tcgetattr(fd, &tty) < 0 || ::tcgetpgrp(fd) != ::getpgrp()) return std::nullopt;
  TtyModes before = {tty.c_iflag, tty.c_oflag, tty.c_cflag, tty.c_lflag, {}};
  before.control_chars.assign(reinterpret_cast<const char*>(tty.c_cc), NCCS);
  tty.c_iflag &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
  tty.c_oflag |= OPOST;
  tty.c_lflag &= ~(ECHO | ECHONL | ICANON | IEXTEN);
  tty.c_cflag = (tty.c_cflag & ~(CSIZE | PARENB)) | CS8;
  tty.c_cc[VMIN] = 1;
  tty.c_cc[VTIME] = 0;
  ::tcsetattr(fd, TCSANOW, &tty);
  return before;
}

void RestoreTty(int fd, const TtyModes& modes) {
  termios tty;
  if (::tcgetattr(fd, &tty) < 0) return;
  tty.c_iflag = modes.iflag;
  tty.c_oflag = modes.oflag;
  tty.c_cflag = modes.cflag;
  tty.c_lflag = modes.lflag;
  std::memcpy(tty.c_cc, modes.control_chars.data(), std::min<size_t>(NCCS, modes.control_chars.size()));
  ::tcsetattr(fd, TCSANOW, &tty);
}

}  // namespace cpr
