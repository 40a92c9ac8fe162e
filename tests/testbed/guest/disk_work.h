#ifndef TESTS_TESTBED_GUEST_DISK_WORK_H_
#define TESTS_TESTBED_GUEST_DISK_WORK_H_

#include <atomic>
#include <cstdint>
#include <string>

namespace cpr {

// Writes blocks of a disk past the page cache, syncs, reads back what it wrote now or earlier, and compares: a request
// that was lost, repeated late or done elsewhere is found (finding.h). Runs until the process ends.
class DiskWork {
 public:
  // `path`: of a block device or file of at least kBlocks * kBlockBytes.
  explicit DiskWork(const std::string& path);

  // Blocks written and verified so far. Thread-safe.
  uint64_t rounds() const { return rounds_; }

  static constexpr uint64_t kBlocks = 16;
  static constexpr uint64_t kBlockBytes = 256 << 10;

 private:
  void Run(const std::string& path);

  std::atomic<uint64_t> rounds_{0};
};

}  // namespace cpr

#endif  // TESTS_TESTBED_GUEST_DISK_WORK_H_
