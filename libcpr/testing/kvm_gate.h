#ifndef LIBCPR_TESTING_KVM_GATE_H_
#define LIBCPR_TESTING_KVM_GATE_H_

#include <cstdlib>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace cpr::testing {

// OK when this process can run a guest: a VM whose only instruction is HLT is built and run, because neither the
// device node nor the CPU's flags promise that. Errors name the step that does not work. Some milliseconds the first
// time, the same answer ever after. Thread-safe.
absl::Status KvmUsable();

}  // namespace cpr::testing

// First statement of a test that needs KVM: skips it with the reason where KVM does not work, or fails it there when
// CPR_REQUIRE_KVM is set (tools/test sets it where //tools:kvm_probe succeeds, so that no skip hides a regression).
#define CPR_SKIP_WITHOUT_KVM()                                                                         \
  do {                                                                                                 \
    if (const absl::Status cpr_kvm = ::cpr::testing::KvmUsable(); !cpr_kvm.ok()) {                     \
      if (std::getenv("CPR_REQUIRE_KVM") != nullptr) FAIL() << "KVM required: " << cpr_kvm.ToString(); \
      GTEST_SKIP() << "KVM unusable: " << cpr_kvm.ToString();                                          \
    }                                                                                                  \
  } while (0)

#endif  // LIBCPR_TESTING_KVM_GATE_H_
