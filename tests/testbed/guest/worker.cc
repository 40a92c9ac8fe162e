// The work of a Linux guest in the testbed's scenarios: all CPUs compute, a thread watches the clocks, and a line each
// half second says how it goes:
//
//   work 12 rounds 4711,4702 gap_us 2310 bad 0 disk 120 stream 90112
//
// rounds: of the checksum, by CPU. gap_us: the longest that the clocks' reader did not run, by the guest's clock,
// since the last line. bad: what was found wrong so far; each has a line of its own, "bad: WHAT". disk, stream: blocks
// written and words that came back, if asked for: worker [cpus N] [disk PATH] [stream ADDRESS PORT]; cpus:
// computes on the first N CPUs alone.
//
// The clocks' reader comes before all else, and counts its rounds in a page that the host can find in the guest's RAM
// (guest_beat.h).

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/testbed/guest/disk_work.h"
#include "tests/testbed/guest/finding.h"
#include "tests/testbed/guest/guest_beat.h"
#include "tests/testbed/guest/stream_work.h"

namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
// Nobody sets CLOCK_REALTIME in the guest: against CLOCK_BOOTTIME, which sleeping advances, too, it may not move by
// more.
constexpr int64_t kRealtimeStepNs = 1'000'000;

constexpr unsigned kMaxCpus = 64;
alignas(cpr::kGuestPageBytes) cpr::GuestBeat beat;
std::atomic<uint64_t> rounds[kMaxCpus];
std::atomic<int64_t> gap_ns{0};

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
    if (Checksum(memory, cpu) != expected) cpr::Bad("checksum");
  }
}

// How far CLOCK_REALTIME is before CLOCK_BOOTTIME, unless this thread lost the CPU between the two readings.
std::optional<int64_t> RealtimeOffset() {
  const int64_t before = Now(CLOCK_BOOTTIME), realtime = Now(CLOCK_REALTIME), after = Now(CLOCK_BOOTTIME);
  if (after - before > kRealtimeStepNs / 2) return std::nullopt;
  return realtime - before;
}

void WatchClocks() {
  const sched_param first = {.sched_priority = 1};
  ::sched_setscheduler(0, SCHED_FIFO, &first);
  std::memcpy(beat.magic, cpr::kGuestBeatMagic, sizeof(beat.magic));
  int64_t last = Now(CLOCK_MONOTONIC);
  std::optional<int64_t> offset = RealtimeOffset();
  for (;; ::usleep(200)) {
    const int64_t now = Now(CLOCK_MONOTONIC);
    if (now < last) cpr::Bad("CLOCK_MONOTONIC went back by " + std::to_string(last - now) + " ns");
    gap_ns = std::max(gap_ns.load(), now - last);
    last = now;
    ++beat.count;
    const std::optional<int64_t> new_offset = RealtimeOffset();
    if (!new_offset) continue;
    const int64_t step = *new_offset - offset.value_or(*new_offset);
    if (step < -kRealtimeStepNs || step > kRealtimeStepNs)
      cpr::Bad("CLOCK_REALTIME stepped by " + std::to_string(step) + " ns");
    offset = new_offset;
  }
}

std::string Rounds(unsigned cpus) {
  std::string text;
  for (unsigned cpu = 0; cpu < cpus; ++cpu) text += (cpu == 0 ? "" : ",") + std::to_string(rounds[cpu].load());
  return text;
}

// What it works on.
struct Work {
  unsigned cpus = std::min(std::thread::hardware_concurrency(), kMaxCpus);
  std::optional<cpr::DiskWork> disk;
  std::optional<cpr::StreamWork> stream;
};

// False: not what the usage says.
bool Start(int argc, char** argv, Work& work) {
  for (int i = 1; i < argc;) {
    const std::string word = argv[i];
    if (word == "cpus" && i + 1 < argc) {
      work.cpus = std::min(work.cpus, static_cast<unsigned>(std::stoul(argv[i + 1])));
      i += 2;
    } else if (word == "disk" && i + 1 < argc) {
      work.disk.emplace(argv[i + 1]);
      i += 2;
    } else if (word == "stream" && i + 2 < argc) {
      work.stream.emplace(argv[i + 1], static_cast<uint16_t>(std::stoi(argv[i + 2])));
      i += 3;
    } else {
      return false;
    }
  }
  return true;
}

void SayHowItGoes(const Work& work) {
  for (int line = 1;; ++line) {
    ::usleep(500'000);
    std::printf("work %d rounds %s gap_us %" PRId64 " bad %" PRIu64 " disk %" PRIu64 " stream %" PRIu64 "\n", line,
                Rounds(work.cpus).c_str(), gap_ns.exchange(0) / 1000, cpr::BadCount(),
                work.disk ? work.disk->rounds() : 0, work.stream ? work.stream->words() : 0);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  Work work;
  if (!Start(argc, argv, work)) {
    std::fprintf(stderr, "usage: worker [cpus N] [disk PATH] [stream ADDRESS PORT]\n");
    return 2;
  }
  for (unsigned cpu = 0; cpu < work.cpus; ++cpu) std::thread(Compute, cpu).detach();
  std::thread(WatchClocks).detach();
  SayHowItGoes(work);
}
