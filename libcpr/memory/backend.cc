#include "libcpr/memory/backend.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14
#endif

namespace cpr {
namespace {

constexpr uint64_t kSmallPageBytes = 4096;

bool IsPowerOfTwo(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

// The page size that the file system of `fd` deals in: huge on hugetlbfs, which a hugetlb memfd lies in too.
absl::StatusOr<uint64_t> PageSizeBytes(int fd) {
  struct statfs fs;
  if (::fstatfs(fd, &fs) != 0) return ErrnoStatus(errno, "fstatfs");
  return fs.f_type == HUGETLBFS_MAGIC ? static_cast<uint64_t>(fs.f_bsize) : kSmallPageBytes;
}

absl::Status CheckSize(const RamBackend& backend) {
  if (backend.size_bytes != 0 && backend.size_bytes % backend.page_size_bytes == 0 && backend.size_bytes <= INT64_MAX) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("size ", backend.size_bytes, " is 0 or no multiple of the page size ", backend.page_size_bytes));
}

absl::Status Resize(int fd, uint64_t size_bytes) {
  if (::ftruncate(fd, static_cast<off_t>(size_bytes)) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrCat("setting the size to ", size_bytes));
}

absl::StatusOr<RamBackend> FillMemfd(const MemfdOptions& options, UniqueFd fd) {
  RamBackend backend{.backing = RamBacking::kMemfd, .size_bytes = options.size_bytes, .shared = options.shared};
  CPR_ASSIGN_OR_RETURN(backend.page_size_bytes, PageSizeBytes(fd.get()));
  CPR_RETURN_IF_ERROR(CheckSize(backend));
  CPR_RETURN_IF_ERROR(Resize(fd.get(), options.size_bytes));
  if (options.seal && ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    return ErrnoStatus(errno, "F_ADD_SEALS");
  }
  backend.fd = std::move(fd);
  return backend;
}

// A file as it was found or made, before it is sized.
struct Opened {
  UniqueFd fd;
  std::string path;  // absolute; empty for a file without a name
  bool created = false;
};

absl::StatusOr<Opened> OpenUnnamedIn(const std::string& folder) {
  std::string path = absl::StrCat(folder, "/cpr-ram.XXXXXX");
  Opened opened{.fd = UniqueFd(::mkostemp(path.data(), O_CLOEXEC))};
  if (!opened.fd.ok()) return ErrnoStatus(errno, "making a file in the folder");
  ::unlink(path.c_str());
  return opened;
}

absl::StatusOr<std::string> AbsolutePath(const std::string& path) {
  char resolved[PATH_MAX];
  if (::realpath(path.c_str(), resolved) == nullptr) return ErrnoStatus(errno, "realpath");
  return std::string(resolved);
}

absl::StatusOr<Opened> OpenOrCreate(const std::string& path) {
  Opened opened{.fd = UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC))};
  if (!opened.fd.ok() && errno == EISDIR) return OpenUnnamedIn(path);
  if (!opened.fd.ok() && errno == ENOENT) {
    opened.fd.Reset(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    opened.created = opened.fd.ok();
  }
  if (!opened.fd.ok()) return ErrnoStatus(errno, "open");
  CPR_ASSIGN_OR_RETURN(opened.path, AbsolutePath(path));
  return opened;
}

absl::StatusOr<RamBackend> DescribeDax(const FileOptions& options, int fd) {
  RamBackend backend{.backing = RamBacking::kDax, .size_bytes = options.size_bytes, .shared = options.shared};
  CPR_ASSIGN_OR_RETURN(const uint64_t device_bytes, DaxAttribute(fd, "size"));
  CPR_ASSIGN_OR_RETURN(backend.page_size_bytes, DaxAttribute(fd, "align"));
  CPR_RETURN_IF_ERROR(CheckSize(backend));
  if (device_bytes >= options.size_bytes) return backend;
  return absl::FailedPreconditionError(
      absl::StrCat("the device has ", device_bytes, " bytes, ", options.size_bytes, " are wanted"));
}

absl::StatusOr<RamBackend> DescribeFile(const FileOptions& options, int fd, uint64_t file_bytes) {
  RamBackend backend{.backing = RamBacking::kFile, .size_bytes = options.size_bytes, .shared = options.shared};
  CPR_ASSIGN_OR_RETURN(backend.page_size_bytes, PageSizeBytes(fd));
  CPR_RETURN_IF_ERROR(CheckSize(backend));
  if (file_bytes != 0 && file_bytes != options.size_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("the file has ", file_bytes, " bytes, ", options.size_bytes, " are wanted"));
  }
  if (file_bytes == 0) CPR_RETURN_IF_ERROR(Resize(fd, options.size_bytes));
  return backend;
}

absl::Status CheckAlign(const FileOptions& options, uint64_t page_size_bytes) {
  const uint64_t align = options.align_bytes;
  if (align == 0 || (IsPowerOfTwo(align) && align >= page_size_bytes && options.size_bytes % align == 0)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("alignment ", align, " does not suit size ", options.size_bytes,
                                                 " and page size ", page_size_bytes));
}

absl::StatusOr<RamBackend> FillFile(const FileOptions& options, Opened& opened) {
  struct stat st;
  if (::fstat(opened.fd.get(), &st) != 0) return ErrnoStatus(errno, "fstat");
  const bool device = S_ISCHR(st.st_mode);
  if (!device && !S_ISREG(st.st_mode)) return absl::InvalidArgumentError("neither a file nor a character device");
  CPR_ASSIGN_OR_RETURN(RamBackend backend,
                       device ? DescribeDax(options, opened.fd.get())
                              : DescribeFile(options, opened.fd.get(), static_cast<uint64_t>(st.st_size)));
  CPR_RETURN_IF_ERROR(CheckAlign(options, backend.page_size_bytes));
  backend.fd = std::move(opened.fd);
  backend.path = std::move(opened.path);
  return backend;
}

absl::StatusOr<Mapping> Map(int fd, uint64_t offset_bytes, uint64_t size_bytes, bool shared) {
  if (fd < 0) return Mapping::CreateAnonymous(size_bytes);
  return Mapping::Create(fd, offset_bytes, size_bytes, Mapping::Access::kReadWrite,
                         shared ? Mapping::Sharing::kShared : Mapping::Sharing::kPrivate);
}

}  // namespace

absl::StatusOr<RamBackend> CreateMemfdBackend(const MemfdOptions& options) {
  const std::string what = absl::StrCat("memfd '", options.name, "'");
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if (options.hugetlb) flags |= MFD_HUGETLB;
  if (options.hugetlb && options.huge_page_bytes != 0) {
    if (!IsPowerOfTwo(options.huge_page_bytes)) {
      return absl::InvalidArgumentError(absl::StrCat(what, ": huge page size ", options.huge_page_bytes));
    }
    flags |= static_cast<unsigned>(__builtin_ctzll(options.huge_page_bytes)) << MFD_HUGE_SHIFT;
  }
  UniqueFd fd(::memfd_create(options.name.c_str(), flags));
  if (!fd.ok()) return ErrnoStatus(errno, absl::StrCat("memfd_create of ", what));
  absl::StatusOr<RamBackend> backend = FillMemfd(options, std::move(fd));
  if (!backend.ok()) return Annotate(backend.status(), what);
  return backend;
}

absl::StatusOr<RamBackend> OpenFileBackend(const FileOptions& options) {
  absl::StatusOr<Opened> opened = OpenOrCreate(options.path);
  if (!opened.ok()) return Annotate(opened.status(), options.path);
  const bool created = opened->created;
  absl::StatusOr<RamBackend> backend = FillFile(options, *opened);
  if (backend.ok()) return backend;
  if (created) ::unlink(options.path.c_str());
  return Annotate(backend.status(), options.path);
}

absl::StatusOr<RamBackend> CreateAnonymousBackend(uint64_t size_bytes) {
  RamBackend backend{.backing = RamBacking::kAnonymous, .size_bytes = size_bytes};
  CPR_RETURN_IF_ERROR(Annotate(CheckSize(backend), "anonymous memory"));
  return backend;
}

absl::StatusOr<Mapping> MapRamBackend(const RamBackend& backend) {
  absl::StatusOr<Mapping> mapping = Map(backend.fd.get(), 0, backend.size_bytes, backend.shared);
  if (!mapping.ok()) return Annotate(mapping.status(), backend.path.empty() ? "guest RAM" : backend.path);
  return mapping;
}

absl::StatusOr<Mapping> MapRamBlock(const RamBlock& block) {
  absl::StatusOr<Mapping> mapping = Map(block.fd(), block.offset_bytes(), block.size_bytes(), block.shared());
  if (!mapping.ok()) return Annotate(mapping.status(), absl::StrCat("RAM block '", block.name(), "'"));
  return mapping;
}

absl::StatusOr<RamBlock> CreateRamBlock(const RamBackend& backend, absl::string_view name, uint64_t gpa,
                                        uint64_t offset_bytes, uint64_t size_bytes) {
  UniqueFd fd;
  if (backend.fd.ok()) {
    CPR_ASSIGN_OR_RETURN(fd, DupFd(backend.fd.get()));
  }
  return RamBlock::Create({.name = std::string(name),
                           .gpa = gpa,
                           .size_bytes = size_bytes,
                           .page_size_bytes = backend.page_size_bytes,
                           .backing = backend.backing,
                           .shared = backend.shared,
                           .path = backend.path,
                           .offset_bytes = offset_bytes},
                          std::move(fd));
}

absl::StatusOr<RamBlock> ReopenRamBlock(const v1::RamBlockDescriptor& descriptor) {
  CPR_ASSIGN_OR_RETURN(const RamBlockLayout layout, RamBlockLayoutFromProto(descriptor));
  const std::string what = absl::StrCat("RAM block '", layout.name, "'");
  if (layout.path.empty()) return absl::FailedPreconditionError(absl::StrCat(what, " has no file to find again"));
  absl::StatusOr<UniqueFd> fd = OpenFile(layout.path, O_RDWR);
  if (!fd.ok()) return Annotate(fd.status(), what);
  return RamBlock::FromProto(descriptor, *std::move(fd));
}

absl::Status Preallocate(const Mapping& mapping, int fd, uint64_t offset_bytes) {
  const auto failed = [&](int err, const char* how) {
    if (err == EFAULT) err = ENOMEM;  // what a huge page that is not there is called
    return ErrnoStatus(err, absl::StrCat(how, " of ", mapping.size_bytes(), " bytes"));
  };
  if (::madvise(mapping.data(), mapping.size_bytes(), MADV_POPULATE_WRITE) == 0) return absl::OkStatus();
  if (errno != EINVAL) return failed(errno, "MADV_POPULATE_WRITE");
  // An older kernel: a file can say that it has no room, where touching its pages would be SIGBUS.
  if (fd >= 0 && ::fallocate(fd, 0, static_cast<off_t>(offset_bytes), static_cast<off_t>(mapping.size_bytes())) != 0) {
    return failed(errno, "fallocate");
  }
  for (size_t at = 0; at < mapping.size_bytes(); at += kSmallPageBytes) {
    volatile uint8_t* byte = mapping.data() + at;
    *byte = *byte;
  }
  return absl::OkStatus();
}

}  // namespace cpr
