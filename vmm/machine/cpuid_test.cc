#include "vmm/machine/cpuid.h"

#include <algorithm>

#include "gtest/gtest.h"

namespace cpr {
namespace {

kvm_cpuid_entry2 Find(const std::vector<kvm_cpuid_entry2>& cpuid, uint32_t function, uint32_t index = 0) {
  for (const kvm_cpuid_entry2& entry : cpuid) {
    if (entry.function == function && entry.index == index) return entry;
  }
  ADD_FAILURE() << "no leaf " << function << "." << index;
  return {};
}

// As a host with two threads a core reports itself.
std::vector<kvm_cpuid_entry2> Host() {
  const uint32_t indexed = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  return {{.function = 1, .ebx = 0x07040800, .edx = 1},
          {.function = 4, .index = 0, .flags = indexed, .eax = 0xfc004121},
          {.function = 4, .index = 3, .flags = indexed, .eax = 0xfc07c163},
          {.function = 0xb, .index = 0, .flags = indexed, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 7},
          {.function = 0x40000001, .eax = 0x010078fb}};
}

TEST(CpuidTest, EachVcpuHasItsOwnApicId) {
  const auto cpuid = GuestCpuid(Host(), 3, 4);
  EXPECT_EQ(Find(cpuid, 1).ebx, 0x03040800u);
  EXPECT_EQ(Find(cpuid, 0xb, 0).edx, 3u);
  EXPECT_EQ(Find(cpuid, 0xb, 1).edx, 3u);
}

TEST(CpuidTest, TheTopologyIsOneSocketOfSingleThreadedCores) {
  const auto cpuid = GuestCpuid(Host(), 0, 5);
  EXPECT_EQ(Find(cpuid, 0xb, 0).ebx, 1u);
  EXPECT_EQ(Find(cpuid, 0xb, 0).eax, 0u);
  EXPECT_EQ(Find(cpuid, 0xb, 1).ebx, 5u);
  EXPECT_EQ(Find(cpuid, 0xb, 1).eax, 3u);  // bits for five ids
  EXPECT_EQ(Find(cpuid, 0xb, 2).ecx, 2u);  // no third level
  EXPECT_EQ(Find(cpuid, 4, 0).eax >> 14 & 0xfff, 0u);
  EXPECT_EQ(Find(cpuid, 4, 3).eax >> 14 & 0xfff, 7u);
}

TEST(CpuidTest, OneVcpuHasNoHyperThreads) {
  EXPECT_EQ(Find(GuestCpuid(Host(), 0, 1), 1).edx & (1u << 28), 0u);
  EXPECT_NE(Find(GuestCpuid(Host(), 0, 2), 1).edx & (1u << 28), 0u);
}

TEST(CpuidTest, TheKernelsLapicBringsItsFeatures) {
  const uint32_t ecx = Find(GuestCpuid(Host(), 0, 1), 1).ecx;
  EXPECT_NE(ecx & (1u << 21), 0u);  // x2APIC
  EXPECT_NE(ecx & (1u << 24), 0u);  // TSC deadline
  EXPECT_NE(ecx & (1u << 31), 0u);  // runs under a hypervisor
}

TEST(CpuidTest, WhatKvmOffersItsGuestsStays) { EXPECT_EQ(Find(GuestCpuid(Host(), 1, 2), 0x40000001).eax, 0x010078fbu); }

}  // namespace
}  // namespace cpr
