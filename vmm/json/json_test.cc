#include "vmm/json/json.h"

#include <cstdint>
#include <optional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "vmm/json/arg_reader.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

JsonValue Parse(absl::string_view text) {
  auto value = ParseJson(text);
  EXPECT_THAT(value, IsOk()) << text;
  return value.ok() ? *value : JsonValue();
}

TEST(JsonTest, PrintsWhatItParses) {
  for (const std::string text :
       {R"({"a": 1, "b": [true, false, null], "c": {"d": "x"}})", "[]", "{}", "0.5", "-7", R"("\u0001\"\\ä\n")"}) {
    EXPECT_EQ(PrintJson(Parse(text)), text);
  }
}

TEST(JsonTest, IntegersStayIntegers) {
  for (const int64_t number : {int64_t{0}, int64_t{-1}, int64_t{1000000000000000}, int64_t{9007199254740991},
                               int64_t{123456789012345678} / 1024 * 1024}) {
    EXPECT_EQ(PrintJson(JsonInteger(number)), std::to_string(number));
  }
  EXPECT_EQ(PrintJson(Parse("1000000000000000")), "1000000000000000");
}

TEST(JsonTest, BytesThatAreNoUtf8BecomeTheReplacementCharacter) {
  EXPECT_EQ(PrintJson(JsonText("a\xff\xc0\xaf\xed\xa0\x80z")), R"("a\ufffd\ufffd\ufffd\ufffd\ufffd\ufffdz")");
  EXPECT_EQ(PrintJson(JsonText("\xe2\x82")), R"("\ufffd\ufffd")");
  EXPECT_EQ(PrintJson(JsonText("\xf0\x9f\x98\x80")), "\"\xf0\x9f\x98\x80\"");
}

TEST(JsonTest, RefusesWhatIsNoJson) {
  for (const std::string text : {"", " \n", "{", "{]", "nonsense", R"({"a":1} x)", R"({"a":1,"a":2})"}) {
    EXPECT_THAT(ParseJson(text), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("JSON parse error, "))) << text;
  }
}

TEST(JsonTest, RefusesWhatIsTooDeepOrTooLong) {
  EXPECT_THAT(ParseJson(std::string(100000, '[')),
              StatusIs(absl::StatusCode::kInvalidArgument, "JSON nesting depth limit exceeded"));
  std::string deepest = "1";
  for (int i = 0; i < kMaxJsonDepth; ++i) deepest = "{\"a\":" + deepest + "}";
  EXPECT_THAT(ParseJson(deepest), IsOk());
  EXPECT_THAT(ParseJson(std::string(kMaxJsonBytes + 1, ' ')),
              StatusIs(absl::StatusCode::kInvalidArgument, "JSON token size limit exceeded"));
}

struct SizeCase {
  std::string text;
  uint64_t unit_bytes;
  std::optional<uint64_t> bytes;
};

TEST(ParseSizeTest, TakesQemusForms) {
  const SizeCase kCases[] = {
      {"512", 1, 512},
      {"512", 1 << 20, 512ull << 20},
      {"512M", 1, 512ull << 20},
      {"4g", 1 << 20, 4ull << 30},
      {"1.5G", 1, 3ull << 29},
      {"0x1000", 1, 4096},
      {"64k", 1, 65536},
      {"7b", 1 << 20, 7},
      {"2T", 1, 2ull << 40},
      {"15E", 1, 15ull << 60},
      {"16E", 1, std::nullopt},
      {"", 1, std::nullopt},
      {"M", 1, std::nullopt},
      {"-1", 1, std::nullopt},
      {"1x", 1, std::nullopt},
      {"1.M", 1, std::nullopt},
      {" 1", 1, std::nullopt},
      {"+1", 1, std::nullopt},
      {"0x", 1, std::nullopt},
      {"1MM", 1, std::nullopt},
      {"18446744073709551615", 1, UINT64_MAX},
      {"18446744073709551616", 1, std::nullopt},
  };
  for (const SizeCase& c : kCases) EXPECT_EQ(ParseSize(c.text, c.unit_bytes), c.bytes) << c.text;
}

TEST(ArgReaderTest, ReadsEachKind) {
  const JsonValue value = Parse(R"({"s":"x","b":true,"n":7,"l":["p","q"],"o":{"k":"v"},"ol":[{"k":"w"}]})");
  ArgReader args(value.struct_value(), ArgSource::kJson);
  EXPECT_EQ(args.RequiredString("s"), "x");
  EXPECT_EQ(args.Bool("b"), true);
  EXPECT_EQ(args.Integer("n"), 7u);
  EXPECT_THAT(*args.StringList("l"), ElementsAre("p", "q"));
  EXPECT_EQ(args.RequiredObject("o")->fields().at("k").string_value(), "v");
  const auto objects = args.ObjectList("ol");
  ASSERT_EQ(objects->size(), 1u);
  EXPECT_EQ(objects->front().first, "ol[0]");
  EXPECT_EQ(args.String("absent"), std::nullopt);
  EXPECT_THAT(args.Finish(), IsOk());
}

// What each reader says to a value it cannot take, in QEMU's words.
TEST(ArgReaderTest, ComplainsInQemusWords) {
  const JsonValue value = Parse(R"({"x":[{"y":1.5}]})");
  const auto complaint = [&](auto read, ArgSource source = ArgSource::kJson) {
    ArgReader args(value.struct_value(), source, "arg.");
    read(args);
    return std::string(args.Finish().message());
  };
  EXPECT_EQ(complaint([](ArgReader& a) { a.String("x"); }), "Invalid parameter type for 'arg.x', expected: string");
  EXPECT_EQ(complaint([](ArgReader& a) { a.Bool("x"); }), "Invalid parameter type for 'arg.x', expected: boolean");
  EXPECT_EQ(complaint([](ArgReader& a) { a.Integer("x"); }), "Invalid parameter type for 'arg.x', expected: integer");
  EXPECT_EQ(complaint([](ArgReader& a) { a.Object("x"); }), "Invalid parameter type for 'arg.x', expected: object");
  EXPECT_EQ(complaint([](ArgReader& a) { a.StringList("x"); }),
            "Invalid parameter type for 'arg.x[0]', expected: string");
  EXPECT_EQ(complaint([](ArgReader& a) { a.RequiredString("z"); }), "Parameter 'arg.z' is missing");
  EXPECT_EQ(complaint([](ArgReader&) {}), "Parameter 'arg.x' is unexpected");
  EXPECT_EQ(complaint([](ArgReader& a) { a.Bool("x"); }, ArgSource::kKeyValues),
            "Parameter 'arg.x' expects 'on' or 'off'");
}

TEST(ArgReaderTest, RefusesIntegersThatAreNone) {
  for (const std::string text : {"-1", "1.5", "1e300"}) {
    const JsonValue value = Parse("{\"n\":" + text + "}");
    ArgReader args(value.struct_value(), ArgSource::kJson);
    args.Integer("n");
    EXPECT_THAT(args.Finish(), StatusIs(absl::StatusCode::kInvalidArgument, "Parameter 'n' expects uint64")) << text;
  }
}

TEST(ArgReaderTest, NamesTheValueThatIsNotOnTheList) {
  const JsonValue value = Parse(R"({"kind":"z"})");
  ArgReader args(value.struct_value(), ArgSource::kJson);
  args.RequiredOneOf("kind", {"a", "b"});
  EXPECT_THAT(args.Finish(),
              StatusIs(absl::StatusCode::kInvalidArgument, "Parameter 'kind' does not accept value 'z'"));
}

}  // namespace
}  // namespace cpr
