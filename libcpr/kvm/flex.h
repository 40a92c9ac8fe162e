#ifndef LIBCPR_KVM_FLEX_H_
#define LIBCPR_KVM_FLEX_H_

#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/types/span.h"

namespace cpr::kvm::internal {

// A KVM structure `Header` that is followed by `capacity` entries, zeroed and suitably aligned.
template <typename Header, typename Entry>
class Flex {
 public:
  explicit Flex(size_t capacity)
      : words_(std::make_unique<uint64_t[]>((sizeof(Header) + capacity * sizeof(Entry) + 7) / 8)) {}
  explicit Flex(absl::Span<const Entry> entries) : Flex(entries.size()) {
    if (!entries.empty()) std::memcpy(this->entries(), entries.data(), entries.size() * sizeof(Entry));
  }

  Header* get() { return reinterpret_cast<Header*>(words_.get()); }
  Header* operator->() { return get(); }
  Entry* entries() { return reinterpret_cast<Entry*>(reinterpret_cast<char*>(words_.get()) + sizeof(Header)); }
  std::vector<Entry> Take(size_t count) { return std::vector<Entry>(entries(), entries() + count); }

 private:
  std::unique_ptr<uint64_t[]> words_;
};

}  // namespace cpr::kvm::internal

#endif  // LIBCPR_KVM_FLEX_H_
