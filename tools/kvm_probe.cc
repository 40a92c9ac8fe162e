// Says whether KVM works here by running a one-instruction guest: exit status 0, or 1 and the reason.

#include <cstdio>

#include "libcpr/testing/kvm_gate.h"

int main() {
  const absl::Status usable = cpr::testing::KvmUsable();
  std::printf("%s\n", usable.ok() ? "KVM works" : usable.ToString().c_str());
  return usable.ok() ? 0 : 1;
}
