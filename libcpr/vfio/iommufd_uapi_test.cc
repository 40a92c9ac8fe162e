#include "libcpr/vfio/iommufd_uapi.h"

#include <linux/vfio.h>

#include <cstddef>

#include "gtest/gtest.h"
#if __has_include(<linux/iommufd.h>)
#include <linux/iommufd.h>
#endif

namespace cpr::vfio {
namespace {

TEST(IommufdUapiTest, RequestsHaveTheKernelsNumbers) {
  EXPECT_EQ(kIommufdDestroy, 0x3b80u);
  EXPECT_EQ(kIoasAlloc, 0x3b81u);
  EXPECT_EQ(kIoasMap, 0x3b85u);
  EXPECT_EQ(kIoasUnmap, 0x3b86u);
  EXPECT_EQ(kIoasMapFile, 0x3b8fu);
  EXPECT_EQ(kIoasChangeProcess, 0x3b92u);
  EXPECT_EQ(kVfioBindIommufd, 0x3b76u);
  EXPECT_EQ(kVfioAttachIommufd, 0x3b77u);
}

TEST(IommufdUapiTest, FieldsAreWhereTheKernelLooks) {
  EXPECT_EQ(offsetof(IoasAlloc, ioas_id), 8u);
  EXPECT_EQ(offsetof(IoasMap, vaddr), 16u);
  EXPECT_EQ(offsetof(IoasMapFile, fd), 12u);
  EXPECT_EQ(offsetof(IoasMapFile, iova), 32u);
  EXPECT_EQ(offsetof(IoasUnmap, length_bytes), 16u);
#ifdef IOMMU_IOAS_UNMAP
  EXPECT_EQ(kIommufdDestroy, IOMMU_DESTROY);
  EXPECT_EQ(kIoasAlloc, IOMMU_IOAS_ALLOC);
  EXPECT_EQ(kIoasMap, IOMMU_IOAS_MAP);
  EXPECT_EQ(sizeof(IoasMap), sizeof(iommu_ioas_map));
  EXPECT_EQ(offsetof(IoasMap, vaddr), offsetof(iommu_ioas_map, user_va));
  EXPECT_EQ(offsetof(IoasMap, iova), offsetof(iommu_ioas_map, iova));
  EXPECT_EQ(kIoasUnmap, IOMMU_IOAS_UNMAP);
  EXPECT_EQ(sizeof(IoasAlloc), sizeof(iommu_ioas_alloc));
  EXPECT_EQ(sizeof(IoasUnmap), sizeof(iommu_ioas_unmap));
  EXPECT_EQ(offsetof(IoasUnmap, iova), offsetof(iommu_ioas_unmap, iova));
#endif
#ifdef IOMMU_IOAS_MAP_FILE
  EXPECT_EQ(kIoasMapFile, IOMMU_IOAS_MAP_FILE);
  EXPECT_EQ(sizeof(IoasMapFile), sizeof(iommu_ioas_map_file));
  EXPECT_EQ(offsetof(IoasMapFile, offset_bytes), offsetof(iommu_ioas_map_file, start));
#endif
#ifdef VFIO_DEVICE_ATTACH_IOMMUFD_PT
  EXPECT_EQ(kVfioBindIommufd, VFIO_DEVICE_BIND_IOMMUFD);
  EXPECT_EQ(kVfioAttachIommufd, VFIO_DEVICE_ATTACH_IOMMUFD_PT);
  EXPECT_EQ(sizeof(VfioBindIommufd), sizeof(vfio_device_bind_iommufd));
  EXPECT_EQ(offsetof(VfioBindIommufd, iommufd), offsetof(vfio_device_bind_iommufd, iommufd));
  EXPECT_EQ(sizeof(VfioAttachIommufd), sizeof(vfio_device_attach_iommufd_pt));
#endif
#ifdef IOMMU_IOAS_CHANGE_PROCESS
  EXPECT_EQ(kIoasChangeProcess, IOMMU_IOAS_CHANGE_PROCESS);
  EXPECT_EQ(sizeof(IoasChangeProcess), sizeof(iommu_ioas_change_process));
#endif
}

}  // namespace
}  // namespace cpr::vfio
