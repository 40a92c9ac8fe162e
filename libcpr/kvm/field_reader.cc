#include "libcpr/kvm/field_reader.h"

#include "absl/strings/str_cat.h"

namespace cpr::kvm::internal {

bool FieldReader::AtMost(const char* field, uint64_t value, uint64_t max) {
  if (value <= max) return true;
  Complain(field, absl::StrCat(value, " is more than ", max));
  return false;
}

bool FieldReader::HasCount(const char* field, int count, int wanted) {
  if (count == wanted) return true;
  Complain(field, absl::StrCat("has ", count, " elements, not ", wanted));
  return false;
}

bool FieldReader::HasAtMost(const char* field, int count, int max) {
  if (count <= max) return true;
  Complain(field, absl::StrCat("has ", count, " elements, more than ", max));
  return false;
}

bool FieldReader::Present(const char* field, bool present) {
  if (!present) Complain(field, "is missing");
  return present;
}

void FieldReader::Complain(const char* field, absl::string_view problem) {
  if (status_->ok()) *status_ = absl::DataLossError(absl::StrCat(Path(), ".", field, ": ", problem));
}

std::string FieldReader::Path() const {
  const std::string name = index_ < 0 ? name_ : absl::StrCat(name_, "[", index_, "]");
  return parent_ == nullptr ? name : absl::StrCat(parent_->Path(), ".", name);
}

}  // namespace cpr::kvm::internal
