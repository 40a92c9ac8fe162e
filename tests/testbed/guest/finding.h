#ifndef TESTS_TESTBED_GUEST_FINDING_H_
#define TESTS_TESTBED_GUEST_FINDING_H_

#include <cstdint>
#include <string>

namespace cpr {

// Tells of something that went wrong in the guest, as a line of stdout of its own: "bad: WHAT". Thread-safe.
void Bad(const std::string& what);
// How often that was.
uint64_t BadCount();

}  // namespace cpr

#endif  // TESTS_TESTBED_GUEST_FINDING_H_
