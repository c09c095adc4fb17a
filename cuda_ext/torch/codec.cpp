// range_encode, range_decode: the entropy coder of pictures.
#include <algorithm>
#include <vector>

#include "box.h"
#include "checks.h"
#include "range_coder.h"

namespace splat {
namespace {

using range::Stream;

// The checked arguments of both directions. The tensors must outlive the stream.
Stream stream_of(const Tensor& coder, Tensor& models, int64_t kind, const Tensor& contexts, const Tensor& extents,
                 int64_t context_count, int64_t memory) {
  const int64_t M = contexts.numel();
  STD_TORCH_CHECK(kind >= 0 && kind <= 3, "kind must be in 0 .. 3, got ", kind);
  STD_TORCH_CHECK(context_count >= 1 && context_count <= (1 << 24), "context_count must be in 1 .. 2^24, got ",
                  context_count);
  STD_TORCH_CHECK(memory >= 0 && memory <= (1 << 24), "memory must be in 0 .. 2^24, got ", memory);
  check_dtype(coder, "coder", ScalarType::Long, "int64");
  check_shape(coder, "coder", {4}, "[4]");
  STD_TORCH_CHECK(coder.is_contiguous() && models.is_contiguous(), "coder and models must be contiguous");
  check_dtype(models, "models", ScalarType::Int, "int32");
  check_dtype(contexts, "contexts", ScalarType::Int, "int32");
  check_shape(contexts, "contexts", {M}, "[M]");
  check_dtype(extents, "extents", ScalarType::Int, "int32");
  const Stream stream{static_cast<range::Kind>(kind), M, in<int32_t>(contexts), in<int32_t>(extents), context_count,
                      memory, reinterpret_cast<range::BitModel*>(out<int32_t>(models))};
  const bool bits = stream.kind == range::Kind::kBits, bounded = stream.kind == range::Kind::kBounded;
  check_shape(extents, "extents", {bits || bounded ? M : 0}, "[M], or [0] where the kind has none");
  if (!bits) check_shape(models, "models", {stream.rows(), range::model_nodes(stream.kind), 3}, "[rows, nodes, 3]");
  for (int64_t i = 0; i < M; ++i) {
    const int32_t context = stream.contexts[i];
    STD_TORCH_CHECK(context >= 0 && context < context_count, "contexts must be in 0 .. ", context_count - 1, ", got ",
                    context);
    if (bits) STD_TORCH_CHECK(stream.extents[i] >= 0 && stream.extents[i] <= 31, "widths must be in 0 .. 31");
    if (bounded) STD_TORCH_CHECK(stream.extents[i] >= 1, "levels must be at least 1");
  }
  return stream;
}

Tensor range_encode(Tensor coder, Tensor models, int64_t kind, const Tensor& values_in, const Tensor& contexts_in,
                    const Tensor& extents_in, int64_t context_count, int64_t memory) {
  const Tensor values = dense(values_in), contexts = dense(contexts_in), extents = dense(extents_in);
  const Stream stream = stream_of(coder, models, kind, contexts, extents, context_count, memory);
  check_dtype(values, "values", ScalarType::Int, "int32");
  check_shape(values, "values", {stream.count}, "[M]");
  std::vector<uint8_t> bytes;
  range::Encoder encoder(in<int64_t>(coder), bytes);
  range::code_stream(encoder, stream, in<int32_t>(values));
  encoder.save(out<int64_t>(coder));
  Tensor result = torch::stable::new_empty(values, {static_cast<int64_t>(bytes.size())}, ScalarType::Byte);
  std::copy(bytes.begin(), bytes.end(), out<uint8_t>(result));
  return result;
}

Tensor range_decode(Tensor coder, Tensor models, const Tensor& data_in, int64_t kind, const Tensor& contexts_in,
                    const Tensor& extents_in, int64_t context_count, int64_t memory) {
  const Tensor data = dense(data_in), contexts = dense(contexts_in), extents = dense(extents_in);
  const Stream stream = stream_of(coder, models, kind, contexts, extents, context_count, memory);
  check_dtype(data, "data", ScalarType::Byte, "uint8");
  Tensor values = torch::stable::new_zeros(contexts, {stream.count});
  range::Decoder decoder(in<int64_t>(coder), in<uint8_t>(data), data.numel());
  range::code_stream(decoder, stream, out<int32_t>(values));
  decoder.save(out<int64_t>(coder));
  return values;
}

}  // namespace
}  // namespace splat

STABLE_TORCH_LIBRARY_IMPL(splat, CPU, m) {
  SPLAT_IMPL(m, range_encode);
  SPLAT_IMPL(m, range_decode);
}
