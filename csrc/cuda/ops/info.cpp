// What this library says of itself. Read from the file, without loading it: pact_ext/_library.py looks for the words
// before the brace. So a torch without CUDA can be told what is inside.
extern "C" __attribute__((visibility("default"), used)) const char pact_cuda_info[] =
    "pact_cuda_info={\"version\": \"" PACT_VERSION "\", \"archs\": \"" PACT_CUDA_ARCHS
    "\", \"nvcc\": \"" PACT_NVCC_VERSION "\", \"torch_abi_floor\": \"2.10\"}";
