#include "tests/testbed/guest/finding.h"

#include <atomic>
#include <cstdio>

namespace cpr {
namespace {

std::atomic<uint64_t> count{0};

}  // namespace

void Bad(const std::string& what) {
  ++count;
  std::printf("bad: %s\n", what.c_str());
}

uint64_t BadCount() { return count; }

}  // namespace cpr
