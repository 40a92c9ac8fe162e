#include "bench/qemu_copy.h"

#include <fcntl.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/testing/temp_folder.h"
#include "tests/driver/vmm.h"
#include "vmm/json/json.h"

namespace cpr {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(5);

// One QEMU with this RAM behind it; its files are gone when this is.
class Qemu {
 public:
  static absl::StatusOr<std::unique_ptr<Qemu>> Start(const CopyPlace& place, const QemuCopy& qemu,
                                                     const std::string& ram, const std::vector<std::string>& more) {
    auto started = std::make_unique<Qemu>();
    std::vector<std::string> command = qemu.program;
    const std::string size = absl::StrCat(place.ram_bytes >> 20, "M");
    for (const std::string& word :
         {std::string("-accel"), std::string("tcg"), std::string("-machine"), std::string("q35,memory-backend=ram0"),
          std::string("-nodefaults"), std::string("-display"), std::string("none"), std::string("-S"),
          std::string("-m"), size, std::string("-object"), absl::StrCat(ram, ",id=ram0,size=", size, ",share=off"),
          std::string("-qmp"), absl::StrCat("unix:", started->folder_.File("qmp"), ",server=on,wait=off")}) {
      command.push_back(word);
    }
    command.insert(command.end(), more.begin(), more.end());
    CPR_ASSIGN_OR_RETURN(Vmm vmm, Vmm::Start(command, started->folder_.File("qmp"), started->folder_.File("log")));
    started->vmm_ = std::make_unique<Vmm>(std::move(vmm));
    CPR_RETURN_IF_ERROR(started->Choose(qemu));
    return started;
  }
  Vmm& vmm() { return *vmm_; }

 private:
  absl::Status Choose(const QemuCopy& qemu) {
    CPR_RETURN_IF_ERROR(vmm_->SetMode(Mode::kReboot));
    if (!qemu.mapped_ram) return absl::OkStatus();
    std::vector<JsonValue> on;
    for (const absl::string_view name : {"mapped-ram", "multifd"}) {
      on.push_back(JsonMembers({{"capability", JsonText(name)}, {"state", JsonBool(true)}}));
    }
    CPR_RETURN_IF_ERROR(
        vmm_->qmp().Execute("migrate-set-capabilities", JsonMembers({{"capabilities", JsonList(on)}})).status());
    return vmm_->qmp()
        .Execute("migrate-set-parameters",
                 JsonMembers({{"multifd-channels", JsonInteger(qemu.channels)}, {"direct-io", JsonBool(qemu.direct)}}))
        .status();
  }

  const testing::TempFolder folder_;
  std::unique_ptr<Vmm> vmm_;
};

std::string RamOf(const TouchedRam& ram) {
  return absl::StrCat("memory-backend-file,mem-path=/proc/", ::getpid(), "/fd/", ram.fd.get());
}

// A state of that RAM in a file of its own.
absl::StatusOr<uint64_t> SaveTo(const std::string& path, const CopyPlace& place, uint64_t one_in, const QemuCopy& qemu,
                                int64_t* nanoseconds) {
  CPR_ASSIGN_OR_RETURN(const auto ram, TouchedRam::Create(place.ram_bytes, one_in));
  CPR_ASSIGN_OR_RETURN(const auto program, Qemu::Start(place, qemu, RamOf(*ram), {}));
  CPR_RETURN_IF_ERROR(Time(nanoseconds, [&]() -> absl::Status {
    CPR_RETURN_IF_ERROR(program->vmm().Migrate(absl::StrCat("file:", path)));
    CPR_RETURN_IF_ERROR(program->vmm().qmp().AwaitMigration(kTimeout));
    CPR_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(path, O_RDONLY));
    return Sync(file.get());
  }));
  CPR_RETURN_IF_ERROR(program->vmm().Quit().status());
  return ram->touched_bytes;
}

}  // namespace

Measured QemuSave(CopyPlace place, uint64_t one_in, QemuCopy qemu) {
  return [=](int64_t* nanoseconds) -> absl::StatusOr<uint64_t> {
    const testing::TempFolder folder(place.folder);
    return SaveTo(folder.File("state"), place, one_in, qemu, nanoseconds);
  };
}

Measured QemuLoad(CopyPlace place, uint64_t one_in, QemuCopy qemu) {
  return [=](int64_t* nanoseconds) -> absl::StatusOr<uint64_t> {
    const testing::TempFolder folder(place.folder);
    const std::string path = folder.File("state");
    CPR_ASSIGN_OR_RETURN(const uint64_t bytes, SaveTo(path, place, one_in, qemu, nanoseconds));
    CPR_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(path, O_RDONLY));
    CPR_RETURN_IF_ERROR(SyncAndForget(file.get()));
    CPR_ASSIGN_OR_RETURN(const auto program, Qemu::Start(place, qemu, "memory-backend-ram", {"-incoming", "defer"}));
    QmpClient& qmp = program->vmm().qmp();
    CPR_RETURN_IF_ERROR(Time(nanoseconds, [&]() -> absl::Status {
      CPR_RETURN_IF_ERROR(
          qmp.Execute("migrate-incoming", JsonMembers({{"uri", JsonText(absl::StrCat("file:", path))}})).status());
      return qmp.AwaitMigration(kTimeout);
    }));
    CPR_RETURN_IF_ERROR(program->vmm().Quit().status());
    return bytes;
  };
}

}  // namespace cpr
