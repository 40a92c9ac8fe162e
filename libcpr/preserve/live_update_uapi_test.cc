#include "libcpr/preserve/live_update_uapi.h"

#include <cstddef>

#include "gtest/gtest.h"
#if __has_include(<linux/liveupdate.h>)
#include <linux/liveupdate.h>
#endif

namespace cpr {
namespace {

TEST(LiveUpdateUapiTest, RequestsHaveTheKernelsNumbers) {
  EXPECT_EQ(kLiveUpdateCreateSession, 0xba00u);
  EXPECT_EQ(kLiveUpdateRetrieveSession, 0xba01u);
  EXPECT_EQ(kLiveUpdatePreserveFd, 0xba40u);
  EXPECT_EQ(kLiveUpdateRetrieveFd, 0xba41u);
  EXPECT_EQ(kLiveUpdateFinish, 0xba42u);
#ifdef LIVEUPDATE_SESSION_FINISH
  EXPECT_EQ(kLiveUpdateCreateSession, LIVEUPDATE_IOCTL_CREATE_SESSION);
  EXPECT_EQ(kLiveUpdateRetrieveSession, LIVEUPDATE_IOCTL_RETRIEVE_SESSION);
  EXPECT_EQ(kLiveUpdatePreserveFd, LIVEUPDATE_SESSION_PRESERVE_FD);
  EXPECT_EQ(kLiveUpdateRetrieveFd, LIVEUPDATE_SESSION_RETRIEVE_FD);
  EXPECT_EQ(kLiveUpdateFinish, LIVEUPDATE_SESSION_FINISH);
#endif
}

TEST(LiveUpdateUapiTest, FieldsAreWhereTheKernelLooks) {
  EXPECT_EQ(offsetof(LiveUpdateNamed, fd), 4u);
  EXPECT_EQ(offsetof(LiveUpdateNamed, name), 8u);
  EXPECT_EQ(offsetof(LiveUpdateFd, fd), 4u);
  EXPECT_EQ(offsetof(LiveUpdateFd, token), 8u);
#ifdef LIVEUPDATE_SESSION_FINISH
  EXPECT_EQ(kLiveUpdateNameBytes, size_t{LIVEUPDATE_SESSION_NAME_LENGTH});
  EXPECT_EQ(sizeof(LiveUpdateNamed), sizeof(liveupdate_ioctl_create_session));
  EXPECT_EQ(offsetof(LiveUpdateNamed, fd), offsetof(liveupdate_ioctl_create_session, fd));
  EXPECT_EQ(offsetof(LiveUpdateNamed, name), offsetof(liveupdate_ioctl_create_session, name));
  EXPECT_EQ(sizeof(LiveUpdateNamed), sizeof(liveupdate_ioctl_retrieve_session));
  EXPECT_EQ(offsetof(LiveUpdateNamed, fd), offsetof(liveupdate_ioctl_retrieve_session, fd));
  EXPECT_EQ(offsetof(LiveUpdateNamed, name), offsetof(liveupdate_ioctl_retrieve_session, name));
  EXPECT_EQ(sizeof(LiveUpdateFd), sizeof(liveupdate_session_preserve_fd));
  EXPECT_EQ(offsetof(LiveUpdateFd, token), offsetof(liveupdate_session_preserve_fd, token));
  EXPECT_EQ(sizeof(LiveUpdateFd), sizeof(liveupdate_session_retrieve_fd));
  EXPECT_EQ(offsetof(LiveUpdateFd, token), offsetof(liveupdate_session_retrieve_fd, token));
  EXPECT_EQ(sizeof(LiveUpdateFinish), sizeof(liveupdate_session_finish));
#endif
}

}  // namespace
}  // namespace cpr
