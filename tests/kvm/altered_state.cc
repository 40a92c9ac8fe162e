#include "tests/kvm/altered_state.h"

#include <utility>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {

using ::cpr::testing::IsOk;

std::string AlterSection(const std::string& state, absl::string_view name, uint32_t instance,
                         absl::FunctionRef<void(SectionInfo& info, std::string& payload)> alter) {
  const absl::StatusOr<ContainerReader> reader = ContainerReader::Parse(state);
  EXPECT_THAT(reader.status(), IsOk());
  bool found = false;
  std::string altered;
  ContainerWriter writer(&altered);
  for (const SectionView& view : reader->sections()) {
    SectionInfo info = view.info;
    std::string changed(view.payload);
    if (info.name == name && info.instance == instance) {
      found = true;
      alter(info, changed);
    }
    const auto write = [&](std::string* payload) {
      payload->append(changed);
      return absl::OkStatus();
    };
    EXPECT_THAT(writer.Add(info, write), IsOk());
  }
  EXPECT_TRUE(found) << "no section '" << name << "' instance " << instance;
  EXPECT_THAT(writer.Finish(), IsOk());
  return altered.replace(kOwnershipOffsetBytes, kOwnershipBytes, state, kOwnershipOffsetBytes, kOwnershipBytes);
}

}  // namespace cpr
