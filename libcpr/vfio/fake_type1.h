#ifndef LIBCPR_VFIO_FAKE_TYPE1_H_
#define LIBCPR_VFIO_FAKE_TYPE1_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "libcpr/base/ioctl_function.h"

namespace cpr::vfio::testing {

// Stands in for the kernel's VFIO container and its groups, with the rules of drivers/vfio/vfio_iommu_type1.c: what is
// pinned stays so until it is unmapped; an address may be given only to a mapping that has none, by the same iova and
// size; taking all away does nothing if one has none already; whoever gives an address has the memory counted as his.
// Thread-compatible.
class FakeType1 {
 public:
  static constexpr int kViableGroup = 10, kOtherViableGroup = 11, kGroupOfTheHost = 12;  // fds

  struct Pinned {
    uint64_t size_bytes = 0;
    uint64_t vaddr = 0;
    bool has_vaddr = true;
    bool writable = true;
    int process = 0;  // that it is counted for

    friend bool operator==(const Pinned&, const Pinned&) = default;
  };

  // What a process, known by a number, calls.
  IoctlFunction As(int process);
  // The next call but `after` is refused with `error`.
  void FailOne(size_t after, int error);
  // What `process` has locked, in bytes.
  uint64_t LockedBytes(int process) const;

  // What the host is like.
  int api_version = 0;
  bool has_type1 = true, has_update_vaddr = true, has_unmap_all = true;
  std::map<int, uint64_t> locked_limit_bytes;  // by process; none for those that are not in it
  // As it is.
  std::vector<int> groups;
  bool has_iommu = false;
  std::map<uint64_t, Pinned> pinned;  // by iova
  size_t unpinned = 0;                // how often
  // Each call's name, in order.
  std::vector<std::string> calls;

 private:
  // All answer 0 or more, or -errno.
  int Answer(int process, int fd, unsigned long request, void* argument);  // NOLINT(google-runtime-int)
  int Extension(uintptr_t extension);
  int GroupStatus(int fd, void* argument);
  int MapDma(int process, void* argument);
  int GiveVaddr(int process, uint64_t iova, uint64_t size_bytes, uint64_t vaddr);
  int UnmapDma(void* argument);
  int TakeAllVaddrs();

  std::optional<size_t> fail_after_;
  int error_ = 0;
};

}  // namespace cpr::vfio::testing

#endif  // LIBCPR_VFIO_FAKE_TYPE1_H_
