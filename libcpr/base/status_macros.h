#ifndef LIBCPR_BASE_STATUS_MACROS_H_
#define LIBCPR_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the enclosing function if `expr`, an absl::Status, is not OK.
#define CPR_RETURN_IF_ERROR(expr)                                                 \
  do {                                                                            \
    if (absl::Status cpr_status_ = (expr); !cpr_status_.ok()) return cpr_status_; \
  } while (0)

// Evaluates `expr`, an absl::StatusOr<T>; returns its status on error, else assigns its value to `lhs`.
#define CPR_ASSIGN_OR_RETURN(lhs, expr) CPR_ASSIGN_OR_RETURN_IMPL_(CPR_CONCAT_(cpr_or_, __LINE__), lhs, expr)
#define CPR_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                               \
  if (!tmp.ok()) return std::move(tmp).status();   \
  lhs = std::move(tmp).value()
#define CPR_CONCAT_(a, b) CPR_CONCAT_INNER_(a, b)
#define CPR_CONCAT_INNER_(a, b) a##b

#endif  // LIBCPR_BASE_STATUS_MACROS_H_
