// Saves a small machine's devices as sections and restores them into another machine, and shows what happens to state
// that is damaged or too new. Nothing here needs KVM: a section is a name, a version and two functions.
#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "examples/sections/thermostat.pb.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/vmstate/proto_payload.h"
#include "libcpr/vmstate/section.h"

namespace {

using cpr::examples::ThermostatState;

// A device. Its section decodes into `staged_` first, so that bad state leaves the live device alone.
class Thermostat {
 public:
  static constexpr uint32_t kVersion = 2;

  cpr::Section MakeSection(uint32_t instance, uint32_t version = kVersion) {
    return {.info = {.name = "thermostat", .instance = instance, .version = version, .min_reader_version = version},
            .save = [this](std::string* payload) { return cpr::EncodeProto(live, payload); },
            .load = [this](absl::string_view payload, uint32_t written) { return Stage(payload, written); },
            .apply =
                [this] {
                  live = staged_;
                  return absl::OkStatus();
                }};
  }

  ThermostatState live;

 private:
  absl::Status Stage(absl::string_view payload, uint32_t version) {
    CPR_RETURN_IF_ERROR(cpr::DecodeProtoInto(payload, version, kVersion, &staged_));
    if (staged_.target_millidegrees() > 30'000) return absl::DataLossError("target is above 30 degrees");
    return absl::OkStatus();
  }

  ThermostatState staged_;
};

absl::StatusOr<std::string> Save(const cpr::SectionRegistry& machine) {
  std::string bytes;
  cpr::ContainerWriter writer(&bytes);
  CPR_RETURN_IF_ERROR(cpr::SaveSections(machine, cpr::Stage::kLate, writer));
  CPR_RETURN_IF_ERROR(writer.Finish());
  return bytes;
}

// All or nothing: no section is applied before every section has been loaded.
absl::Status Restore(const std::string& bytes, cpr::SectionRegistry& machine) {
  CPR_ASSIGN_OR_RETURN(const cpr::ContainerReader reader, cpr::ContainerReader::Parse(bytes));
  CPR_RETURN_IF_ERROR(cpr::LoadSections(machine, cpr::Stage::kLate, reader));
  return cpr::ApplySections(machine, cpr::Stage::kLate);
}

void Report(const char* what, const absl::Status& status) { std::printf("%s: %s\n", what, status.ToString().c_str()); }

absl::Status Run() {
  Thermostat hall, kitchen, new_hall, new_kitchen;
  hall.live.set_target_millidegrees(21'500);
  kitchen.live.set_heating(true);

  cpr::SectionRegistry old_machine, new_machine, newer_machine;
  CPR_RETURN_IF_ERROR(old_machine.Add(hall.MakeSection(0)));
  CPR_RETURN_IF_ERROR(old_machine.Add(kitchen.MakeSection(1)));
  CPR_RETURN_IF_ERROR(new_machine.Add(new_hall.MakeSection(0)));
  CPR_RETURN_IF_ERROR(new_machine.Add(new_kitchen.MakeSection(1)));
  CPR_RETURN_IF_ERROR(newer_machine.Add(hall.MakeSection(0, Thermostat::kVersion + 1)));

  CPR_ASSIGN_OR_RETURN(std::string state, Save(old_machine));
  Report("restored", Restore(state, new_machine));
  std::printf("hall %d, kitchen heating %d\n", new_hall.live.target_millidegrees(), new_kitchen.live.heating());

  // A peer is asked with these before anything is saved.
  Report("asked", cpr::CheckReadable(newer_machine.Infos(), new_machine.Supported()));

  hall.live.set_target_millidegrees(99'000);
  CPR_ASSIGN_OR_RETURN(const std::string nonsense, Save(old_machine));
  Report("nonsense", Restore(nonsense, new_machine));
  Report("cut", Restore(state.substr(0, 100), new_machine));
  std::printf("hall is still %d\n", new_hall.live.target_millidegrees());
  return absl::OkStatus();
}

}  // namespace

int main() {
  const absl::Status status = Run();
  if (!status.ok()) Report("example", status);
  return status.ok() ? 0 : 1;
}
