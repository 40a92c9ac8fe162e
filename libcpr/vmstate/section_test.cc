#include "libcpr/vmstate/section.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// A machine whose sections hold one string each and note what is done to them.
struct Machine {
  struct Part {
    std::string live;
    std::string staged;
  };
  SectionRegistry registry;
  std::map<std::string, Part> parts;
  std::vector<std::string> log;

  void Add(const SectionInfo& info, std::string live = "") {
    const std::string& name = info.name;
    parts[name].live = std::move(live);
    const absl::Status status =
        registry.Add({.info = info,
                      .save =
                          [this, name](std::string* payload) {
                            payload->append(parts[name].live);
                            return absl::OkStatus();
                          },
                      .load =
                          [this, name](absl::string_view payload, uint32_t version) {
                            log.push_back("load " + name + " v" + std::to_string(version));
                            parts[name].staged = std::string(payload);
                            return payload == "bad" ? absl::DataLossError("is bad") : absl::OkStatus();
                          },
                      .apply =
                          [this, name] {
                            log.push_back("apply " + name);
                            parts[name].live = parts[name].staged;
                            return absl::OkStatus();
                          }});
    EXPECT_THAT(status, IsOk());
  }

  std::string Save(Stage stage = Stage::kLate) {
    std::string bytes;
    ContainerWriter writer(&bytes);
    EXPECT_THAT(SaveSections(registry, stage, writer), IsOk());
    EXPECT_THAT(writer.Finish(), IsOk());
    return bytes;
  }

  absl::Status Load(const std::string& bytes, Stage stage = Stage::kLate) {
    const absl::StatusOr<ContainerReader> reader = ContainerReader::Parse(bytes);
    if (!reader.ok()) return reader.status();
    return LoadSections(registry, stage, *reader);
  }
};

TEST(SectionRegistryTest, RefusesWhatCannotWork) {
  SectionRegistry registry;
  const auto save = [](std::string*) { return absl::OkStatus(); };
  const auto load = [](absl::string_view, uint32_t) { return absl::OkStatus(); };
  EXPECT_THAT(registry.Add({.info = {.name = "a"}, .load = load}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("section 'a' instance 0 version 1: has no save")));
  EXPECT_THAT(registry.Add({.info = {.name = "a"}, .save = save}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("has no load")));
  EXPECT_THAT(registry.Add({.info = {.name = ""}, .save = save, .load = load}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a name is")));
  EXPECT_THAT(registry.Add({.info = {.name = "a"}, .save = save, .load = load}), IsOk());
  EXPECT_THAT(registry.Add({.info = {.name = "a"}, .save = save, .load = load}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("registered already")));
  EXPECT_EQ(registry.sections().size(), 1u);
  EXPECT_NE(registry.Find("a", 0), nullptr);
  EXPECT_EQ(registry.Find("a", 1), nullptr);
  registry.Clear();
  EXPECT_THAT(registry.Infos(), IsEmpty());
  EXPECT_EQ(registry.Find("a", 0), nullptr);
}

TEST(SectionRegistryTest, SupportsWhatEachInstanceOfANameCanRead) {
  Machine machine;
  machine.Add({.name = "vcpu", .version = 3});
  machine.Add({.name = "vcpu", .instance = 1, .version = 2});
  machine.Add({.name = "pit"});
  const std::vector<SectionSupport> supported = machine.registry.Supported();
  ASSERT_EQ(supported.size(), 2u);
  EXPECT_EQ(supported[0].name, "vcpu");
  EXPECT_EQ(supported[0].version, 2u);
  EXPECT_EQ(supported[1].name, "pit");
}

TEST(CheckReadableTest, NamesEverySectionAndWhy) {
  const std::vector<SectionInfo> writer = {{.name = "serial", .version = 4, .min_reader_version = 4},
                                           {.name = "tpm", .instance = 1},
                                           {.name = "hint", .optional = true},
                                           {.name = "vcpu", .version = 9, .min_reader_version = 2}};
  const std::vector<SectionSupport> reader = {{"serial", 3}, {"vcpu", 2}};
  EXPECT_THAT(CheckReadable(writer, reader),
              StatusIs(absl::StatusCode::kOutOfRange,
                       "section 'serial' instance 0 version 4: needs reader >= 4, this reader knows 3; "
                       "section 'tpm' instance 1 version 1: this reader does not know it"));
  EXPECT_THAT(CheckReadable({}, {}), IsOk());
}

TEST(CheckReadableTest, OptionalOnesThatAreKnownMustStillBeReadable) {
  const std::vector<SectionInfo> writer = {{.name = "hint", .version = 2, .min_reader_version = 2, .optional = true}};
  const std::vector<SectionSupport> reader = {{"hint", 1}};
  EXPECT_THAT(CheckReadable(writer, reader), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("'hint'")));
}

TEST(SectionsTest, RoundTripLoadsAllBeforeItAppliesAny) {
  Machine a, b;
  a.Add({.name = "one", .version = 2}, "1");
  a.Add({.name = "two"}, "2");
  b.Add({.name = "two"});
  b.Add({.name = "one"});
  ASSERT_THAT(b.Load(a.Save()), IsOk());
  EXPECT_EQ(b.parts["one"].live, "") << "load touched something live";
  ASSERT_THAT(ApplySections(b.registry, Stage::kLate), IsOk());
  EXPECT_THAT(b.log, ElementsAre("load two v1", "load one v2", "apply two", "apply one"));
  EXPECT_EQ(b.parts["one"].live, "1");
  EXPECT_EQ(b.parts["two"].live, "2");
}

TEST(SectionsTest, StagesAreApartEvenInOneContainer) {
  Machine a, b;
  for (Machine* machine : {&a, &b}) {
    machine->Add({.name = "late"}, "L");
    machine->Add({.name = "early", .stage = Stage::kEarly}, "E");
  }
  std::string bytes;
  ContainerWriter writer(&bytes);
  ASSERT_THAT(SaveSections(a.registry, Stage::kEarly, writer), IsOk());
  ASSERT_THAT(SaveSections(a.registry, Stage::kLate, writer), IsOk());
  ASSERT_THAT(writer.Finish(), IsOk());
  ASSERT_THAT(b.Load(bytes, Stage::kEarly), IsOk());
  ASSERT_THAT(ApplySections(b.registry, Stage::kEarly), IsOk());
  EXPECT_THAT(b.log, ElementsAre("load early v1", "apply early"));
  ASSERT_THAT(b.Load(bytes, Stage::kLate), IsOk());
  ASSERT_THAT(ApplySections(b.registry, Stage::kLate), IsOk());
  EXPECT_THAT(b.log, ElementsAre("load early v1", "apply early", "load late v1", "apply late"));
}

TEST(SectionsTest, OneLoadedInTheWrongStageIsNamed) {
  Machine a, b;
  a.Add({.name = "x", .stage = Stage::kEarly});
  b.Add({.name = "x", .stage = Stage::kLate});
  for (const Stage stage : {Stage::kEarly, Stage::kLate}) {
    EXPECT_THAT(b.Load(a.Save(Stage::kEarly), stage),
                StatusIs(absl::StatusCode::kOutOfRange,
                         "section 'x' instance 0 version 1: was saved early, this reader takes it late"));
  }
}

TEST(SectionsTest, UnknownSectionIsAnErrorUnlessOptional) {
  Machine a, b, c, d;
  a.Add({.name = "tpm"});
  a.Add({.name = "tpm", .instance = 1});
  c.Add({.name = "hint", .optional = true});
  EXPECT_THAT(b.Load(a.Save()), StatusIs(absl::StatusCode::kOutOfRange,
                                         AllOf(HasSubstr("section 'tpm' instance 0 version 1: this machine"),
                                               HasSubstr("section 'tpm' instance 1 version 1: this"))));
  EXPECT_THAT(d.Load(c.Save()), IsOk());
}

TEST(SectionsTest, MissingSectionsAreNamedUnlessOptional) {
  Machine a, b;
  b.Add({.name = "serial"});
  b.Add({.name = "hint", .optional = true});
  b.Add({.name = "vcpu", .instance = 2});
  EXPECT_THAT(b.Load(a.Save()), StatusIs(absl::StatusCode::kNotFound,
                                         "the state lacks section 'serial' instance 0 version 1, "
                                         "section 'vcpu' instance 2 version 1"));
  EXPECT_THAT(b.log, IsEmpty());
}

TEST(SectionsTest, AbsentOptionalSectionIsNotApplied) {
  Machine a, b;
  b.Add({.name = "hint", .optional = true}, "as built");
  ASSERT_THAT(b.Load(a.Save()), IsOk());
  ASSERT_THAT(ApplySections(b.registry, Stage::kLate), IsOk());
  EXPECT_THAT(b.log, IsEmpty());
  EXPECT_EQ(b.parts["hint"].live, "as built");
}

TEST(SectionsTest, ReaderTakesWhatTheWriterSaysItCan) {
  Machine reader, lenient, strict;
  reader.Add({.name = "x", .version = 3});
  lenient.Add({.name = "x", .version = 4, .min_reader_version = 3});
  strict.Add({.name = "x", .version = 4, .min_reader_version = 4});
  EXPECT_THAT(reader.Load(lenient.Save()), IsOk());
  EXPECT_THAT(reader.log, ElementsAre("load x v4"));
  EXPECT_THAT(reader.Load(strict.Save()),
              StatusIs(absl::StatusCode::kOutOfRange,
                       "section 'x' instance 0 version 4: needs reader >= 4, this reader knows 3"));
}

TEST(SectionsTest, OldestReaderFollowsTheFeaturesInUse) {
  uint32_t oldest = 1;
  SectionRegistry registry;
  ASSERT_THAT(registry.Add({.info = {.name = "x", .version = 2, .min_reader_version = 2},
                            .save = [](std::string*) { return absl::OkStatus(); },
                            .load = [](absl::string_view, uint32_t) { return absl::OkStatus(); },
                            .oldest_reader = [&oldest] { return oldest; }}),
              IsOk());
  Machine reader;
  reader.Add({.name = "x"});
  const auto restore = [&]() -> absl::Status {
    std::string bytes;
    ContainerWriter writer(&bytes);
    EXPECT_THAT(SaveSections(registry, Stage::kLate, writer), IsOk());
    EXPECT_THAT(writer.Finish(), IsOk());
    return reader.Load(bytes);
  };
  EXPECT_THAT(restore(), IsOk());
  EXPECT_THAT(CheckReadable(registry.Infos(), reader.registry.Supported()), IsOk());
  oldest = 2;
  EXPECT_THAT(restore(), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("needs reader >= 2")));
  EXPECT_THAT(CheckReadable(registry.Infos(), reader.registry.Supported()),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("needs reader >= 2")));
}

TEST(SectionsTest, FailedLoadIsNamedAndNothingCanBeApplied) {
  Machine a, b;
  a.Add({.name = "one"}, "1");
  a.Add({.name = "two"}, "bad");
  b.Add({.name = "one"});
  b.Add({.name = "two"});
  EXPECT_THAT(b.Load(a.Save()), StatusIs(absl::StatusCode::kDataLoss, "section 'two' instance 0 version 1: is bad"));
  ASSERT_THAT(ApplySections(b.registry, Stage::kLate), IsOk());
  EXPECT_EQ(b.parts["one"].live, "");
}

TEST(SectionsTest, AppliesWhatWasLoadedOnce) {
  Machine a, b;
  a.Add({.name = "one"}, "1");
  b.Add({.name = "one"});
  ASSERT_THAT(b.Load(a.Save()), IsOk());
  ASSERT_THAT(ApplySections(b.registry, Stage::kLate), IsOk());
  ASSERT_THAT(ApplySections(b.registry, Stage::kLate), IsOk());
  EXPECT_THAT(b.log, ElementsAre("load one v1", "apply one"));
}

TEST(SectionsTest, ApplyErrorNamesTheSection) {
  SectionRegistry registry;
  ASSERT_THAT(registry.Add({.info = {.name = "x"},
                            .save = [](std::string*) { return absl::OkStatus(); },
                            .load = [](absl::string_view, uint32_t) { return absl::OkStatus(); },
                            .apply = [] { return absl::UnimplementedError("KVM_SET_XCRS"); }}),
              IsOk());
  std::string bytes;
  ContainerWriter writer(&bytes);
  ASSERT_THAT(SaveSections(registry, Stage::kLate, writer), IsOk());
  ASSERT_THAT(writer.Finish(), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const ContainerReader reader, ContainerReader::Parse(bytes));
  ASSERT_THAT(LoadSections(registry, Stage::kLate, reader), IsOk());
  EXPECT_THAT(ApplySections(registry, Stage::kLate),
              StatusIs(absl::StatusCode::kUnimplemented, "section 'x' instance 0 version 1: KVM_SET_XCRS"));
}

TEST(SectionsTest, SavingDoesNotChangeTheSource) {
  Machine machine;
  machine.Add({.name = "x"}, "state");
  const std::string first = machine.Save(), second = machine.Save();
  EXPECT_EQ(first.substr(kHeaderBytes, first.size() - kHeaderBytes - 16),
            second.substr(kHeaderBytes, second.size() - kHeaderBytes - 16));
}

}  // namespace
}  // namespace cpr
