// pause_watch RAM: watches the beat of a guest's worker (guest_beat.h), or of the self-checking guest (guest_abi.h), in
// the file that is the guest's RAM. For each line on stdin, NAME, it answers "NAME PAUSE", the longest time in
// milliseconds in which the beat stood still since the line before: the guest's pause from outside, whatever VMM runs
// it and whatever it makes of the guest's clocks.

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <iostream>
#include <string>

#include "tests/guest/guest_abi.h"
#include "tests/testbed/guest/guest_beat.h"

namespace {

// What counts while a guest runs.
using Beat = const volatile uint64_t*;

// In an emulated host pauses are some hundred of these long, and a look costs the guest a good part of a millisecond.
constexpr int64_t kLookIntervalNs = 2'000'000;

int64_t NowNs() {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// The beat that a page of RAM is about; null: none.
Beat BeatOf(const char* page) {
  const auto* worker = reinterpret_cast<const cpr::GuestBeat*>(page);
  if (std::memcmp(worker->magic, cpr::kGuestBeatMagic, sizeof(worker->magic)) == 0) {
    return reinterpret_cast<Beat>(&worker->count);
  }
  const auto* guest = reinterpret_cast<const volatile cpr_guest_abi*>(page);
  return guest->magic == CPR_GUEST_MAGIC ? &guest->vcpu[0].beats : nullptr;
}

// The first in `path`; waits for it. Null: it is no RAM.
Beat FindBeat(const char* path) {
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  struct stat file = {};
  if (fd < 0 || ::fstat(fd, &file) != 0) return nullptr;
  const size_t size = static_cast<size_t>(file.st_size);
  const void* ram = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  if (ram == MAP_FAILED) return nullptr;
  for (;; ::sleep(1)) {
    for (size_t at = 0; at < size; at += cpr::kGuestPageBytes) {
      if (Beat beat = BeatOf(static_cast<const char*>(ram) + at); beat != nullptr) return beat;
    }
  }
}

// Until there is input: the longest time without a change.
int64_t Watch(Beat beat) {
  int64_t longest_ns = 0, changed_ns = NowNs();
  uint64_t count = *beat;
  pollfd input = {STDIN_FILENO, POLLIN, 0};
  const timespec interval = {0, kLookIntervalNs};
  while (::poll(&input, 1, 0) == 0) {
    const uint64_t now_count = *beat;
    const int64_t now_ns = NowNs();
    longest_ns = std::max(longest_ns, now_ns - changed_ns);
    if (now_count != count) changed_ns = now_ns;
    count = now_count;
    ::nanosleep(&interval, nullptr);
  }
  return longest_ns;
}

}  // namespace

int main(int argc, char** argv) {
  const Beat beat = argc == 2 ? FindBeat(argv[1]) : nullptr;
  if (beat == nullptr) {
    std::fprintf(stderr, "usage: pause_watch RAM, the file that is a guest's RAM\n");
    return 2;
  }
  const sched_param first = {.sched_priority = 1};
  ::sched_setscheduler(0, SCHED_FIFO, &first);
  std::string name;
  for (;;) {
    const int64_t pause_ns = Watch(beat);
    if (!std::getline(std::cin, name)) return 0;
    std::printf("%s %.1f\n", name.c_str(), static_cast<double>(pause_ns) / 1e6);
    std::fflush(stdout);
  }
}
