#include "vmm/monitor/line_editor.h"

#include <histedit.h>
#include <unistd.h>

#include <utility>

#include "absl/status/status.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

constexpr int kHistoryLines = 100;

absl::StatusOr<std::FILE*> OpenStream(int fd, const char* mode) {
  CPR_ASSIGN_OR_RETURN(UniqueFd own, DupFd(fd));
  std::FILE* stream = ::fdopen(own.get(), mode);
  if (stream == nullptr) return absl::InternalError("fdopen of the terminal");
  (void)own.Release();  // the stream closes it
  return stream;
}

}  // namespace

char* LineEditor::Prompt(editline* editor) {
  void* self = nullptr;
  el_get(editor, EL_CLIENTDATA, &self);
  return static_cast<LineEditor*>(self)->prompt_.data();
}

absl::StatusOr<std::unique_ptr<LineEditor>> LineEditor::Create(int in, int out, std::string prompt) {
  std::unique_ptr<LineEditor> self(new LineEditor(std::move(prompt)));
  CPR_ASSIGN_OR_RETURN(self->in_, OpenStream(in, "r"));
  CPR_ASSIGN_OR_RETURN(self->out_, OpenStream(out, "w"));
  self->editor_ = el_init("cpr-vmm", self->in_, self->out_, stderr);
  self->history_ = history_init();
  if (self->editor_ == nullptr || self->history_ == nullptr) return absl::InternalError("libedit cannot start");
  HistEvent event;
  history(self->history_, &event, H_SETSIZE, kHistoryLines);
  history(self->history_, &event, H_SETUNIQUE, 1);
  el_set(self->editor_, EL_CLIENTDATA, self.get());
  el_set(self->editor_, EL_PROMPT, &LineEditor::Prompt);
  el_set(self->editor_, EL_EDITOR, "emacs");
  el_set(self->editor_, EL_SIGNAL, 0);  // signals are the VMM's
  el_set(self->editor_, EL_HIST, &history, self->history_);
  return self;
}

LineEditor::~LineEditor() {
  End();
  if (editor_ != nullptr) el_end(editor_);
  if (history_ != nullptr) history_end(history_);
  if (in_ != nullptr) std::fclose(in_);
  if (out_ != nullptr) std::fclose(out_);
}

void LineEditor::Begin() {
  if (editing_) return;
  el_set(editor_, EL_UNBUFFERED, 1);
  editing_ = true;
}

void LineEditor::End() {
  if (!editing_) return;
  el_set(editor_, EL_UNBUFFERED, 0);
  editing_ = false;
}

std::optional<LineEditor::Input> LineEditor::ReadKey() {
  int size = 0;
  const char* text = el_gets(editor_, &size);
  if (text == nullptr || size <= 0) {
    End();
    return Input{.ended = true};
  }
  const char last = text[size - 1];
  if (size == 1 && last == 4) {  // Ctrl-D on an empty line ends nothing: a guest may depend on this program
    End();
    return Input{};
  }
  if (last != '\n' && last != '\r') return std::nullopt;
  Input input{.line = std::string(text, static_cast<size_t>(size) - 1)};
  End();
  HistEvent event;
  if (!input.line.empty()) history(history_, &event, H_ENTER, input.line.c_str());
  return input;
}

}  // namespace cpr
