#include "tests/testbed/guest/disk_work.h"

#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "tests/testbed/guest/finding.h"

namespace cpr {
namespace {

constexpr size_t kWords = DiskWork::kBlockBytes / sizeof(uint64_t);
constexpr size_t kDirectIoBytes = 4096;

uint64_t* NewBlock() { return static_cast<uint64_t*>(std::aligned_alloc(kDirectIoBytes, DiskWork::kBlockBytes)); }

// What round `round` writes: no two rounds the same, and no two words of one.
uint64_t Word(uint64_t round, size_t index) { return (round << 32 | index) * 0x9e3779b97f4a7c15; }

void Fill(uint64_t* block, uint64_t round) {
  for (size_t i = 0; i < kWords; ++i) block[i] = Word(round, i);
}

void Verify(const uint64_t* block, uint64_t at, uint64_t round) {
  for (size_t i = 0; i < kWords; ++i) {
    if (block[i] == Word(round, i)) continue;
    return Bad("disk: block " + std::to_string(at) + " is not what round " + std::to_string(round) +
               " wrote, from byte " + std::to_string(i * sizeof(uint64_t)));
  }
}

bool Done(ssize_t result, const char* what) {
  if (result >= 0) return true;
  Bad(std::string("disk: ") + what + ": " + std::strerror(errno));
  return false;
}

}  // namespace

DiskWork::DiskWork(const std::string& path) {
  std::thread([this, path] { Run(path); }).detach();
}

void DiskWork::Run(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  if (!Done(fd, path.c_str())) return;
  uint64_t *const out = NewBlock(), *const in = NewBlock();
  std::array<uint64_t, kBlocks> written_by = {};
  for (uint64_t round = 1;; ++round) {
    const uint64_t at = round % kBlocks, back = round * 7 % kBlocks;
    Fill(out, round);
    if (!Done(::pwrite(fd, out, kBlockBytes, static_cast<off_t>(at * kBlockBytes)), "write")) return;
    if (!Done(::fsync(fd), "fsync")) return;
    written_by[at] = round;
    if (written_by[back] != 0) {
      if (!Done(::pread(fd, in, kBlockBytes, static_cast<off_t>(back * kBlockBytes)), "read")) return;
      Verify(in, back, written_by[back]);
    }
    rounds_ = round;
  }
}

}  // namespace cpr
