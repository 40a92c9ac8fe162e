# What a device reaches by DMA changes hands between processes while a transfer is under way: type 1 container and iommufd, on a real IOMMU's driver.
#: files tests/vfio/handover_test
#: edu
#: seconds 300

exec ./tests/vfio/handover_test
