// CUB's device-wide sort and scan, for binning.cu and work.cu alone, or a stand-in on the host.
#pragma once
#if defined(__CUDACC__)
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#else
#include "emu_cub.h"
#endif
