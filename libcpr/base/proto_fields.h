#ifndef LIBCPR_BASE_PROTO_FIELDS_H_
#define LIBCPR_BASE_PROTO_FIELDS_H_

#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/status_macros.h"

// Takes `message`'s optional field `field` into `*target`, or returns kDataLoss from the enclosing function: the field
// is missing, or its value does not fit the target's type. Every scalar of a state message is `optional`, so that a
// message cut short between two fields, which protobuf takes, is known as one.
//
//   CPR_TAKE_FIELD(proto, divisor, &state.divisor);
#define CPR_TAKE_FIELD(message, field, target) \
  CPR_RETURN_IF_ERROR(::cpr::TakeField((message).has_##field(), (message).field(), #field, target))

namespace cpr {

template <typename From, typename To>
absl::Status TakeField(bool present, const From& value, absl::string_view name, To* target) {
  if (!present) return absl::DataLossError(absl::StrCat("field '", name, "' is missing"));
  if constexpr (std::is_integral_v<From> && !std::is_same_v<From, To> && !std::is_same_v<From, bool>) {
    if (!std::in_range<To>(value)) {
      return absl::DataLossError(absl::StrCat("field '", name, "' is ", value, ": out of range"));
    }
  }
  *target = static_cast<To>(value);
  return absl::OkStatus();
}

}  // namespace cpr

#endif  // LIBCPR_BASE_PROTO_FIELDS_H_
