#include "vmm/app/main_loop.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/modes/exec.h"
#include "vmm/app/app.h"
#include "vmm/machine/machine.h"
#include "vmm/options/options.h"

namespace cpr {
namespace {

int Complain(const absl::Status& why) {
  std::fprintf(stderr, "cpr-vmm: %s\n", std::string(why.message()).c_str());
  return EXIT_FAILURE;
}

// What cannot be done with a guest on its way sends it back: this does not return then.
int GiveUp(std::unique_ptr<ExecHandoff> handoff, const absl::Status& why) {
  if (handoff != nullptr) handoff->ReturnToOldProgram(why).IgnoreError();
  return Complain(why);
}

absl::Status WritePidfile(const std::string& path) {
  const absl::StatusOr<UniqueFd> file = OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (!file.ok()) return file.status();
  return WriteAll(file->get(), absl::StrCat(::getpid(), "\n"));
}

absl::Status LogTo(const std::string& path) {
  const absl::StatusOr<UniqueFd> file = OpenFile(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (!file.ok()) return file.status();
  ::dup2(file->get(), STDERR_FILENO);
  return absl::OkStatus();
}

}  // namespace

int RunVmm(int argc, char** argv, const VmmAlterations& alterations) {
  App::Setup setup{.phase_observer = alterations.phase_observer, .reads = App::SupportedSections()};
  if (alterations.reads != nullptr) alterations.reads(setup.reads);
  if (AnswerExecCheckIfAsked(setup.reads)) return EXIT_SUCCESS;
  GrowFdTable();
  absl::StatusOr<std::unique_ptr<ExecHandoff>> handoff = ExecHandoff::FromEnvironment();
  if (!handoff.ok()) return Complain(handoff.status());
  setup.argv.assign(argv, argv + argc);
  absl::StatusOr<Options> options = ParseOptions(argc, argv);
  if (!options.ok()) return GiveUp(*std::move(handoff), options.status());
  if (options->print_help || options->print_version) {
    std::fputs((options->print_help ? HelpText() : VersionText()).c_str(), stdout);
    return EXIT_SUCCESS;
  }
  absl::Status prepared = options->log_file.has_value() ? LogTo(*options->log_file) : absl::OkStatus();
  if (prepared.ok() && options->pidfile.has_value()) prepared = WritePidfile(*options->pidfile);
  if (!prepared.ok()) return GiveUp(*std::move(handoff), prepared);
  setup.options = *std::move(options);
  setup.handoff = *std::move(handoff);
  const absl::StatusOr<std::unique_ptr<App>> app = App::Create(std::move(setup));
  if (!app.ok()) return Complain(app.status());
  return (*app)->Run();
}

}  // namespace cpr
