#ifndef LIBCPR_KVM_FIELD_READER_H_
#define LIBCPR_KVM_FIELD_READER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace cpr::kvm::internal {

// Checks the fields of a message from outside and keeps the first complaint, which names the field by its path:
// "VcpuX86State.sregs.cs.type: 16 is more than 15". Readers of submessages complain to the outermost one, which must
// outlive them, as must all names. Says nothing and allocates nothing while all is well.
class FieldReader {
 public:
  static constexpr uint64_t kAny = ~uint64_t{0};

  explicit FieldReader(const char* message) : name_(message), status_(&own_status_) {}
  FieldReader(const FieldReader& parent, const char* field, int index = -1)
      : parent_(&parent), name_(field), index_(index), status_(parent.status_) {}
  FieldReader(const FieldReader&) = delete;
  FieldReader& operator=(const FieldReader&) = delete;

  // Copies `value` into `*out` when it is at most `max` and fits.
  template <typename T>
  void Take(const char* field, uint64_t value, uint64_t max, T* out) {
    if (AtMost(field, value, max) && AtMost(field, value, static_cast<T>(~uint64_t{0}))) *out = static_cast<T>(value);
  }
  bool AtMost(const char* field, uint64_t value, uint64_t max);
  // A repeated field has exactly, or at most, so many elements.
  bool HasCount(const char* field, int count, int wanted);
  bool HasAtMost(const char* field, int count, int max);
  bool Present(const char* field, bool present);
  void Complain(const char* field, absl::string_view problem);

  const absl::Status& status() const { return *status_; }

 private:
  std::string Path() const;

  const FieldReader* parent_ = nullptr;
  const char* name_;
  int index_ = -1;
  absl::Status own_status_;
  absl::Status* status_;
};

}  // namespace cpr::kvm::internal

#endif  // LIBCPR_KVM_FIELD_READER_H_
