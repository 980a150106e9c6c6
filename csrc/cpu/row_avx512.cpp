#include "vec_avx512.h"
// The rest is compiled against the vector type above.
#include "row.h"

namespace fastsample {
const Worker kAvx512 = {
    "avx512",
    {avx512::kWorkerOf<Dtype::kFloat32>, avx512::kWorkerOf<Dtype::kBfloat16>, avx512::kWorkerOf<Dtype::kFloat16>}};
}  // namespace fastsample
