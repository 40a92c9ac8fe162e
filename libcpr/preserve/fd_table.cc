#include "libcpr/preserve/fd_table.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <set>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

std::string Label(absl::string_view name, uint32_t instance) {
  return absl::StrCat("fd '", name, "' instance ", instance);
}
std::string Label(const v1::FdEntry& entry) { return Label(entry.name(), entry.instance()); }

bool IsGoodName(absl::string_view name) { return !name.empty() && name.size() <= FdTable::kMaxNameBytes; }

bool IsNonblocking(int fd) { return (::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0; }

uint64_t FileSizeBytes(int fd) {
  struct stat st;
  return ::fstat(fd, &st) == 0 ? static_cast<uint64_t>(st.st_size) : 0;
}

uint32_t Seals(int fd) {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  return seals < 0 ? 0 : static_cast<uint32_t>(seals);
}

absl::Status CheckMemfd(const v1::FdEntry& entry, int fd) {
  if (const uint64_t size_bytes = FileSizeBytes(fd); size_bytes != entry.size_bytes()) {
    return absl::FailedPreconditionError(
        absl::StrCat("is a memfd of ", size_bytes, " bytes, the manifest says ", entry.size_bytes()));
  }
  // A peer may seal more, never less, than it says.
  if ((Seals(fd) & entry.seals()) != entry.seals()) {
    return absl::FailedPreconditionError(
        absl::StrCat("is a memfd with seals ", Seals(fd), ", the manifest says ", entry.seals()));
  }
  return absl::OkStatus();
}

v1::FdEntry Describe(absl::string_view name, uint32_t instance, FdKind kind, int fd) {
  v1::FdEntry entry;
  entry.set_name(std::string(name));
  entry.set_instance(instance);
  entry.set_kind(static_cast<v1::FdKind>(kind));
  entry.set_nonblocking(IsNonblocking(fd));
  if (kind == FdKind::kMemfd) {
    entry.set_size_bytes(FileSizeBytes(fd));
    entry.set_seals(Seals(fd));
  }
  return entry;
}

}  // namespace

absl::Status FdTable::AddDup(absl::string_view name, uint32_t instance, FdKind kind, int fd) {
  absl::StatusOr<UniqueFd> copy = DupFd(fd);
  if (!copy.ok()) return Annotate(copy.status(), Label(name, instance));
  return Add(name, instance, kind, *std::move(copy));
}

absl::Status FdTable::Add(absl::string_view name, uint32_t instance, FdKind kind, UniqueFd fd) {
  if (!IsGoodName(name))
    return absl::InvalidArgumentError(absl::StrCat("an fd's name has 1 to ", kMaxNameBytes, " bytes"));
  if (entries_.size() >= kMaxEntries)
    return absl::ResourceExhaustedError(absl::StrCat("more than ", kMaxEntries, " fds"));
  if (Has(name, instance)) return absl::AlreadyExistsError(absl::StrCat(Label(name, instance), " is there already"));
  CPR_RETURN_IF_ERROR(Annotate(CheckFdKind(fd.get(), kind), Label(name, instance)));
  CPR_RETURN_IF_ERROR(Annotate(SetCloexec(fd.get(), true), Label(name, instance)));
  entries_.emplace(Key(std::string(name), instance), Entry{kind, std::move(fd)});
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> FdTable::Take(absl::string_view name, uint32_t instance, FdKind kind) {
  const auto found = entries_.find(Key(std::string(name), instance));
  if (found == entries_.end()) return absl::NotFoundError(absl::StrCat(Label(name, instance), " did not come over"));
  if (found->second.kind != kind) {
    return absl::FailedPreconditionError(absl::StrCat(Label(name, instance), " is a ", FdKindName(found->second.kind),
                                                      ", a ", FdKindName(kind), " is needed"));
  }
  UniqueFd fd = std::move(found->second.fd);
  entries_.erase(found);
  return fd;
}

bool FdTable::Has(absl::string_view name, uint32_t instance) const { return Find(name, instance) >= 0; }

int FdTable::Find(absl::string_view name, uint32_t instance) const {
  const auto found = entries_.find(Key(std::string(name), instance));
  return found == entries_.end() ? -1 : found->second.fd.get();
}

std::vector<std::string> FdTable::names() const {
  std::vector<std::string> names;
  for (const auto& [key, entry] : entries_) {
    names.push_back(absl::StrCat(key.first, "/", key.second, " (", FdKindName(entry.kind), ")"));
  }
  return names;
}

v1::FdManifest FdTable::Manifest() const {
  v1::FdManifest manifest;
  uint32_t index = 0;
  for (const auto& [key, entry] : entries_) {
    v1::FdEntry* described = manifest.add_entries();
    *described = Describe(key.first, key.second, entry.kind, entry.fd.get());
    described->set_fd_index(index++);
  }
  return manifest;
}

std::vector<int> FdTable::fds() const {
  std::vector<int> fds;
  fds.reserve(entries_.size());
  for (const auto& [key, entry] : entries_) fds.push_back(entry.fd.get());
  return fds;
}

absl::Status ValidateFdManifest(const v1::FdManifest& manifest, size_t fd_count) {
  const size_t listed = static_cast<size_t>(manifest.entries_size());
  if (listed != fd_count) {
    return absl::DataLossError(absl::StrCat("manifest lists ", listed, " fds, ", fd_count, " came with it"));
  }
  if (listed > FdTable::kMaxEntries) {
    return absl::DataLossError(
        absl::StrCat("manifest lists ", listed, " fds, ", FdTable::kMaxEntries, " are the limit"));
  }
  std::set<std::pair<absl::string_view, uint32_t>> keys;
  std::vector<bool> used(fd_count);
  for (const v1::FdEntry& entry : manifest.entries()) {
    if (!IsGoodName(entry.name())) return absl::DataLossError("manifest has an entry whose name is empty or too long");
    if (!keys.emplace(entry.name(), entry.instance()).second) {
      return absl::DataLossError(absl::StrCat("manifest lists ", Label(entry), " twice"));
    }
    if (FdKindName(static_cast<FdKind>(entry.kind())) == FdKindName(FdKind::kUnspecified)) {
      return absl::DataLossError(absl::StrCat(Label(entry), " has unknown kind ", static_cast<int>(entry.kind())));
    }
    if (entry.fd_index() >= fd_count || used[entry.fd_index()]) {
      return absl::DataLossError(absl::StrCat(Label(entry), " has fd index ", entry.fd_index(), ", which is ",
                                              entry.fd_index() >= fd_count ? "past the end" : "taken"));
    }
    used[entry.fd_index()] = true;
  }
  return absl::OkStatus();
}

absl::StatusOr<FdTable> FdTable::Dup() const {
  FdTable copy;
  for (const auto& [key, entry] : entries_) {
    absl::StatusOr<UniqueFd> fd = DupFd(entry.fd.get());
    if (!fd.ok()) return Annotate(fd.status(), Label(key.first, key.second));
    copy.entries_.emplace(key, Entry{entry.kind, *std::move(fd)});
  }
  return copy;
}

absl::Status CheckFdEntry(const v1::FdEntry& entry, int fd) {
  const FdKind kind = static_cast<FdKind>(entry.kind());
  CPR_RETURN_IF_ERROR(Annotate(CheckFdKind(fd, kind), Label(entry)));
  return kind == FdKind::kMemfd ? Annotate(CheckMemfd(entry, fd), Label(entry)) : absl::OkStatus();
}

absl::StatusOr<FdTable> FdTable::FromManifest(const v1::FdManifest& manifest, std::vector<UniqueFd> fds) {
  return FromManifestOrKeep(manifest, fds);
}

absl::StatusOr<FdTable> FdTable::FromManifestOrKeep(const v1::FdManifest& manifest, std::vector<UniqueFd>& fds) {
  CPR_RETURN_IF_ERROR(ValidateFdManifest(manifest, fds.size()));
  for (const v1::FdEntry& entry : manifest.entries()) {
    const int fd = fds[entry.fd_index()].get();
    CPR_RETURN_IF_ERROR(CheckFdEntry(entry, fd));
    CPR_RETURN_IF_ERROR(Annotate(SetCloexec(fd, true), Label(entry)));
    CPR_RETURN_IF_ERROR(Annotate(SetNonblocking(fd, entry.nonblocking()), Label(entry)));
  }
  FdTable table;
  for (const v1::FdEntry& entry : manifest.entries()) {
    table.entries_.emplace(Key(entry.name(), entry.instance()),
                           Entry{static_cast<FdKind>(entry.kind()), std::move(fds[entry.fd_index()])});
  }
  return table;
}

}  // namespace cpr
