#ifndef TESTS_TESTBED_GUEST_GUEST_BEAT_H_
#define TESTS_TESTBED_GUEST_GUEST_BEAT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace cpr {

inline constexpr size_t kGuestPageBytes = 4096;
// Random.
inline constexpr uint64_t kGuestBeatMagic[4] = {0x6e0c55a1d3b24f97, 0x92d40c7be1f3a685, 0x1bf7a93c5e60d824,
                                                0xc38e51f60a7db249};

// At the start of a page of a guest process, where a host that has the guest's RAM finds it by its magic words. `count`
// rises every 200 us or so while the guest runs.
struct GuestBeat {
  uint64_t magic[4];
  std::atomic<uint64_t> count;
};

}  // namespace cpr

#endif  // TESTS_TESTBED_GUEST_GUEST_BEAT_H_
