#ifndef LIBCPR_TESTING_MATCHERS_H_
#define LIBCPR_TESTING_MATCHERS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"

namespace cpr::testing {

inline const absl::Status& AsStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& AsStatus(const absl::StatusOr<T>& value) {
  return value.status();
}

// Matches an OK absl::Status or absl::StatusOr.
MATCHER(IsOk, negation ? "is an error" : "is OK") {
  *result_listener << AsStatus(arg).ToString();
  return AsStatus(arg).ok();
}

// Matches a status (or StatusOr) of `code` whose message matches `message`.
MATCHER_P2(StatusIs, code, message, "has code " + absl::StatusCodeToString(code) + " and a fitting message") {
  const absl::Status& status = AsStatus(arg);
  *result_listener << status.ToString();
  return status.code() == code &&
         ::testing::ExplainMatchResult(::testing::MatcherCast<std::string>(message), std::string(status.message()),
                                       result_listener);
}

}  // namespace cpr::testing

// Evaluates an absl::StatusOr, ends the test with its status on error, else assigns its value to `lhs`.
#define CPR_ASSERT_OK_AND_ASSIGN(lhs, expr) CPR_ASSERT_OK_AND_ASSIGN_IMPL_(CPR_TEST_CONCAT_(cpr_or_, __LINE__), lhs, expr)
#define CPR_ASSERT_OK_AND_ASSIGN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                   \
  ASSERT_TRUE(tmp.ok()) << tmp.status();               \
  lhs = std::move(tmp).value()
#define CPR_TEST_CONCAT_(a, b) CPR_TEST_CONCAT_INNER_(a, b)
#define CPR_TEST_CONCAT_INNER_(a, b) a##b

#endif  // LIBCPR_TESTING_MATCHERS_H_
