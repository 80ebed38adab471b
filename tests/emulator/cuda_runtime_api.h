// What the Params headers and launch.h name of the CUDA runtime, for a compiler that has none.
#pragma once

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
