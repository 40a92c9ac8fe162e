#ifndef VMM_CHARDEV_TTY_H_
#define VMM_CHARDEV_TTY_H_

#include <cstdint>
#include <optional>
#include <string>

namespace cpr {

// A terminal's modes (termios) as they were before a VMM changed them.
struct TtyModes {
  uint32_t iflag = 0, oflag = 0, cflag = 0, lflag = 0;
  std::string control_chars;  // c_cc, kTtyControlChars bytes

  bool canonical() const;
  friend bool operator==(const TtyModes&, const TtyModes&) = default;
};
extern const size_t kTtyControlChars;

// Passes what is typed at terminal `fd` (lent) on byte by byte and unechoed; signal characters keep their meaning.
// Returns the modes as they were; nothing if `fd` is no terminal or belongs to another foreground job.
std::optional<TtyModes> MakeTtyRaw(int fd);

// Gives terminal `fd` (lent) `modes` again. Errors are ignored: the terminal may be gone.
void RestoreTty(int fd, const TtyModes& modes);

}  // namespace cpr

#endif  // VMM_CHARDEV_TTY_H_
