// The work of a Linux guest in the testbed's scenarios: all CPUs compute, a thread watches the clocks, and a line each
// half second says how it goes:
//
//   work 12 rounds 4711,4702 gap_us 2310 bad 0
//
// rounds: of the checksum, by CPU. gap_us: the longest that a clock's reader saw nothing pass, since the last line.
// bad: what was found wrong so far; each has a line of its own, "bad: WHAT".
// worker cpus N computes on the first N CPUs alone.

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
// Nobody sets CLOCK_REALTIME in the guest: against CLOCK_BOOTTIME, which sleeping advances, too, it may not move by
// more.
constexpr int64_t kRealtimeStepNs = 1'000'000;

constexpr unsigned kMaxCpus = 64;
std::atomic<uint64_t> rounds[kMaxCpus], bad{0};
std::atomic<int64_t> gap_ns{0};

void Bad(const char* what, int64_t by_ns) {
  ++bad;
  std::printf("bad: %s by %" PRId64 " ns\n", what, by_ns);
}

int64_t Now(clockid_t clock) {
  timespec now = {};
  ::clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * kSecondNs + now.tv_nsec;
}

// FNV-1a over bytes that a generator makes: registers and memory alike are in it.
uint64_t Checksum(std::vector<uint64_t>& memory, uint64_t seed) {
  uint64_t sum = 0xcbf29ce484222325;
  for (uint64_t& word : memory) {
    seed = seed * 6364136223846793005 + 1442695040888963407;
    word = seed;
  }
  for (const uint64_t word : memory) sum = (sum ^ word) * 0x100000001b3;
  return sum;
}

void Compute(unsigned cpu) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  ::sched_setaffinity(0, sizeof(one), &one);
  std::vector<uint64_t> memory(64 << 10);
  const uint64_t expected = Checksum(memory, cpu);
  for (;; ++rounds[cpu]) {
    if (Checksum(memory, cpu) != expected) Bad("checksum", 0);
  }
}

// How far CLOCK_REALTIME is before CLOCK_BOOTTIME, unless this thread lost the CPU between the two readings.
std::optional<int64_t> RealtimeOffset() {
  const int64_t before = Now(CLOCK_BOOTTIME), realtime = Now(CLOCK_REALTIME), after = Now(CLOCK_BOOTTIME);
  if (after - before > kRealtimeStepNs / 2) return std::nullopt;
  return realtime - before;
}

void WatchClocks() {
  int64_t last = Now(CLOCK_MONOTONIC);
  std::optional<int64_t> offset = RealtimeOffset();
  for (;; ::usleep(200)) {
    const int64_t now = Now(CLOCK_MONOTONIC);
    if (now < last) Bad("CLOCK_MONOTONIC went back", last - now);
    gap_ns = std::max(gap_ns.load(), now - last);
    last = now;
    const std::optional<int64_t> new_offset = RealtimeOffset();
    if (!new_offset) continue;
    const int64_t step = *new_offset - offset.value_or(*new_offset);
    if (step < -kRealtimeStepNs || step > kRealtimeStepNs) Bad("CLOCK_REALTIME stepped", step);
    offset = new_offset;
  }
}

std::string Rounds(unsigned cpus) {
  std::string text;
  for (unsigned cpu = 0; cpu < cpus; ++cpu) text += (cpu == 0 ? "" : ",") + std::to_string(rounds[cpu].load());
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  unsigned cpus = std::min(std::thread::hardware_concurrency(), kMaxCpus);
  if (argc == 3 && std::string(argv[1]) == "cpus") cpus = std::min(cpus, static_cast<unsigned>(std::stoul(argv[2])));
  for (unsigned cpu = 0; cpu < cpus; ++cpu) std::thread(Compute, cpu).detach();
  std::thread(WatchClocks).detach();
  for (int line = 1;; ++line) {
    ::usleep(500'000);
    std::printf("work %d rounds %s gap_us %" PRId64 " bad %" PRIu64 "\n", line, Rounds(cpus).c_str(),
                gap_ns.exchange(0) / 1000, bad.load());
  }
}
