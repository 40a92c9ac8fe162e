#ifndef LIBCPR_PRESERVE_FD_TABLE_H_
#define LIBCPR_PRESERVE_FD_TABLE_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/preserve/fd_kind.h"
#include "proto/cpr/v1/fds.pb.h"

namespace cpr {

// The descriptors that outlive the process, keyed by (name, instance): filled by the old side, sent by one of the ways
// of this folder, emptied by the new side. Owns what it holds. Thread-compatible.
//
//   FdTable table;
//   CPR_RETURN_IF_ERROR(table.AddDup("net0.tap", 0, FdKind::kTap, tap_fd));
//   socket.Send(table.Manifest().SerializeAsString(), table.fds());
//   ...on the other side...
//   CPR_ASSIGN_OR_RETURN(FdTable table, FdTable::FromManifest(manifest, std::move(packet.fds)));
//   CPR_ASSIGN_OR_RETURN(UniqueFd tap, table.Take("net0.tap", 0, FdKind::kTap));
class FdTable {
 public:
  static constexpr size_t kMaxEntries = 8192;  // 64 vCPUs and 16 devices of 256 vectors stay well below
  static constexpr size_t kMaxNameBytes = 255;

  // Adds a duplicate of `fd` (lent, with CLOEXEC), or `fd` itself (owned from here on, also on error).
  // kAlreadyExists: the key is taken. kInvalidArgument: no name. kFailedPrecondition: `fd` is not of `kind`.
  // kResourceExhausted: too many.
  absl::Status AddDup(absl::string_view name, uint32_t instance, FdKind kind, int fd);
  absl::Status Add(absl::string_view name, uint32_t instance, FdKind kind, UniqueFd fd);

  // Gives an fd away. kNotFound: there is none of this key. kFailedPrecondition: it is of another kind, and stays.
  absl::StatusOr<UniqueFd> Take(absl::string_view name, uint32_t instance, FdKind kind);

  bool Has(absl::string_view name, uint32_t instance) const;
  // Lent, for looking at: -1 if there is none of this key.
  int Find(absl::string_view name, uint32_t instance) const;
  size_t size() const { return entries_.size(); }
  bool empty() const { return entries_.empty(); }
  // "name/instance (kind)" of everything held: what nobody took, when the new side is done.
  std::vector<std::string> names() const;

  // What is held, as seen now, and the descriptors (lent) in the manifest's order.
  v1::FdManifest Manifest() const;
  std::vector<int> fds() const;

  // A table of duplicates of everything, for a holder that must be able to start over with its own.
  absl::StatusOr<FdTable> Dup() const;

  // The table that `manifest` describes, from `fds` in the order of its indices. Each fd is checked against its entry:
  // kind, and of a memfd size and seals; O_NONBLOCK is set as recorded and CLOEXEC always. Owns all of `fds` from the
  // call on, also on error. kDataLoss: the manifest is malformed or does not fit the number of fds.
  // kFailedPrecondition: an fd is not what its entry says. Both name the entry.
  static absl::StatusOr<FdTable> FromManifest(const v1::FdManifest& manifest, std::vector<UniqueFd> fds);
  // The same, but on error all of `fds` are still there, with CLOEXEC and O_NONBLOCK perhaps set on some.
  static absl::StatusOr<FdTable> FromManifestOrKeep(const v1::FdManifest& manifest, std::vector<UniqueFd>& fds);

 private:
  using Key = std::pair<std::string, uint32_t>;
  struct Entry {
    FdKind kind;
    UniqueFd fd;
  };
  std::map<Key, Entry> entries_;
};

// Checks `manifest` by itself: names, kinds, no key twice, and every index below `fd_count` used exactly once.
// kDataLoss, naming the entry.
absl::Status ValidateFdManifest(const v1::FdManifest& manifest, size_t fd_count);

// Checks that `fd` (lent) is what `entry` says: kind, and of a memfd size and seals. kFailedPrecondition, naming the
// entry.
absl::Status CheckFdEntry(const v1::FdEntry& entry, int fd);

}  // namespace cpr

#endif  // LIBCPR_PRESERVE_FD_TABLE_H_
