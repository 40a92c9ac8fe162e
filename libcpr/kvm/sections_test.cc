// The configuration's section, which needs no KVM; tests/kvm/sections_test.cc has the state's.
#include "libcpr/kvm/sections.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "proto/cpr/v1/kvm.pb.h"

namespace cpr::kvm {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

GuestConfig TwoVcpus() {
  GuestConfig config;
  config.vm.irqchip = IrqchipKind::kFull;
  config.vm.pit = true;
  for (uint32_t id : {0, 1}) {
    config.vcpus.push_back({.id = id, .cpuid = {{.function = 1, .eax = id}}, .tsc_khz = 2'000'000});
  }
  return config;
}

std::string Saved(GuestConfig config) {
  SectionRegistry sections;
  EXPECT_THAT(AddConfigSection(&config, sections), IsOk());
  std::string payload;
  EXPECT_THAT(sections.sections()[0].save(&payload), IsOk());
  return payload;
}

absl::Status Load(const std::string& payload, GuestConfig* config) {
  SectionRegistry sections;
  EXPECT_THAT(AddConfigSection(config, sections), IsOk());
  return sections.sections()[0].load(payload, 1);
}

TEST(ConfigSectionTest, WhatIsSavedIsLoaded) {
  GuestConfig loaded;
  ASSERT_THAT(Load(Saved(TwoVcpus()), &loaded), IsOk());
  EXPECT_EQ(loaded.vm.irqchip, IrqchipKind::kFull);
  EXPECT_TRUE(loaded.vm.pit);
  ASSERT_EQ(loaded.vcpus.size(), 2u);
  EXPECT_EQ(loaded.vcpus[1].id, 1u);
  EXPECT_EQ(loaded.vcpus[1].cpuid.at(0).eax, 1u);
  EXPECT_EQ(loaded.vcpus[1].tsc_khz, 2'000'000u);
  EXPECT_EQ(loaded.host_boot_id, HostBootId().value());
}

TEST(ConfigSectionTest, NonsenseIsRefusedAndChangesNothing) {
  v1::MachineKvm none, swapped, no_boot_id;
  ASSERT_TRUE(none.ParseFromString(Saved(TwoVcpus())));
  swapped = no_boot_id = none;
  none.clear_vcpus();
  swapped.mutable_vcpus()->SwapElements(0, 1);
  no_boot_id.clear_host_boot_id();
  GuestConfig config = {.vm = {}, .vcpus = {{.id = 0, .cpuid = {}}}};
  EXPECT_THAT(Load(none.SerializeAsString(), &config), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("0 vCPUs")));
  EXPECT_THAT(Load(swapped.SerializeAsString(), &config),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("not in order")));
  EXPECT_THAT(Load(no_boot_id.SerializeAsString(), &config),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("host_boot_id")));
  EXPECT_EQ(config.vcpus.size(), 1u);
}

TEST(ConfigSectionTest, AllSectionsAreNamedToThePeer) {
  const std::vector<SectionSupport> support = KvmSectionSupport();
  ASSERT_EQ(support.size(), 3u);
  EXPECT_EQ(support[0].name, "machine-kvm");
  EXPECT_EQ(support[1].name, "kvm-vcpu");
  EXPECT_EQ(support[2].name, "kvm-vm");
}

}  // namespace
}  // namespace cpr::kvm
