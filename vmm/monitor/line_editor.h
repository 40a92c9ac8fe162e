#ifndef VMM_MONITOR_LINE_EDITOR_H_
#define VMM_MONITOR_LINE_EDITOR_H_

#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

struct editline;
struct history;

namespace cpr {

// Edits lines on a terminal with libedit, one key at a time, so that an event loop stays in charge: Begin, then ReadKey
// whenever the terminal is readable, until it gives a line. Between lines the terminal is as the user had it.
// Thread-compatible.
class LineEditor {
 public:
  // `in` and `out` are lent and must be a terminal's. kInternal: libedit cannot work with it.
  static absl::StatusOr<std::unique_ptr<LineEditor>> Create(int in, int out, std::string prompt);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // Shows the prompt and takes the terminal over. Nothing else may write to it until the line is there.
  void Begin();
  // Gives the terminal back; what was typed of the line is lost.
  void End();

  struct Input {
    bool ended = false;  // the terminal is gone
    std::string line;    // without its newline
  };
  // Takes one key (waiting for it, if the terminal is not readable). nullopt: the line is not complete.
  std::optional<Input> ReadKey();

 private:
  explicit LineEditor(std::string prompt) : prompt_(std::move(prompt)) {}
  static char* Prompt(editline* editor);

  std::string prompt_;
  std::FILE* in_ = nullptr;
  std::FILE* out_ = nullptr;
  editline* editor_ = nullptr;
  struct history* history_ = nullptr;
  bool editing_ = false;
};

}  // namespace cpr

#endif  // VMM_MONITOR_LINE_EDITOR_H_
