/* SPDX-License-Identifier: Apache-2.0 */
#include "c10d_tensors.h"

#include <algorithm>

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

#include "c10d_staging.h"

namespace rdmatrain {

std::optional<rdt_dtype_t> dtype_of(at::ScalarType type)
{
    static constexpr std::pair<at::ScalarType, rdt_dtype_t> table[] = {
        {at::kFloat, RDT_F32},
        {at::kBFloat16, RDT_BF16},
        {at::kHalf, RDT_F16},
        {at::kDouble, RDT_F64},
        {at::kChar, RDT_I8},
        {at::kByte, RDT_U8},
        {at::kShort, RDT_I16},
        {at::kUInt16, RDT_U16},
        {at::kInt, RDT_I32},
        {at::kUInt32, RDT_U32},
        {at::kLong, RDT_I64},
        {at::kUInt64, RDT_U64},
        {at::kBool, RDT_BOOL},
        {at::kFloat8_e4m3fn, RDT_F8E4M3FN},
        {at::kFloat8_e5m2, RDT_F8E5M2},
        {at::kFloat8_e4m3fnuz, RDT_F8E4M3FNUZ},
        {at::kFloat8_e5m2fnuz, RDT_F8E5M2FNUZ},
        {at::kFloat8_e8m0fnu, RDT_F8E8M0FNU},
        {at::kComplexHalf, RDT_C32},
        {at::kComplexFloat, RDT_C64},
        {at::kComplexDouble, RDT_C128},
    };

    for (auto [scalar_type, dtype] : table)
        if (scalar_type == type) return dtype;
    return std::nullopt;
}

static rdt_dtype_t word_of(size_t bytes)
{
    switch (bytes) {
    case 1:
        return RDT_U8;
    case 2:
        return RDT_U16;
    case 4:
        return RDT_U32;
    default:
        return RDT_U64;
    }
}

TensorCall call_for(rdt_coll_t coll, const at::Tensor &tensor)
{
    TensorCall call;
    auto dtype = dtype_of(tensor.scalar_type());

    call.call.coll = coll;
    call.call.dtype = dtype ? *dtype : word_of(tensor.element_size());
    call.call.count = static_cast<uint64_t>(tensor.numel());
    return call;
}

void compare_shape(TensorCall &call, const at::Tensor &tensor)
{
    auto sizes = tensor.sizes();

    call.call.shape = rdt_shape_pack(sizes.data(), sizes.size());
}

/* Whether its elements, as they are, lie one behind the other. */
static bool is_plain(const at::Tensor &tensor)
{
    return tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg();
}

static at::Tensor plain(const at::Tensor &tensor)
{
    if (is_plain(tensor)) return tensor;
    at::NoGradGuard no_grad;
    return tensor.resolve_conj().resolve_neg().contiguous();
}

/* Where C finds the tensor that the call holds last: in place, or in memory that stands for it. */
static void *address(TensorCall &call, bool load, bool store)
{
    const at::Tensor &tensor = call.held.back();

    if (load) call.num_inputs = call.held.size();
    return tensor.is_cpu() ? tensor.data_ptr() : stage(call, tensor, load, store);
}

const void *readable(TensorCall &call, const at::Tensor &tensor)
{
    call.held.push_back(plain(tensor));
    return address(call, true, false);
}

void *writable(TensorCall &call, const at::Tensor &tensor, bool load)
{
    call.outputs.push_back(tensor);
    if (is_plain(tensor)) {
        call.held.push_back(tensor);
    } else {
        at::NoGradGuard no_grad;
        call.held.push_back(load ? plain(tensor) : at::empty(tensor.sizes(), tensor.options()));
        call.copy_back.emplace_back(tensor, call.held.back());
    }
    return address(call, load, true);
}

static TensorCall::Shards &shards_of(TensorCall &call)
{
    if (call.shards == nullptr) call.shards = std::make_unique<TensorCall::Shards>();
    return *call.shards;
}

void read_shards(TensorCall &call, const Tensors &inputs)
{
    auto &in = shards_of(call).in;

    for (auto &input : inputs)
        in.push_back(readable(call, input));
    call.call.in_shards = in.data();
}

void write_shards(TensorCall &call, const Tensors &outputs)
{
    auto &out = shards_of(call).out;

    for (auto &output : outputs)
        out.push_back(writable(call, output, false));
    call.call.out_shards = out.data();
}

void count_inputs(TensorCall &call, std::vector<uint64_t> counts)
{
    auto &kept = shards_of(call).in_counts;

    kept = std::move(counts);
    call.call.in_counts = kept.data();
}

void count_outputs(TensorCall &call, std::vector<uint64_t> counts)
{
    auto &kept = shards_of(call).out_counts;

    kept = std::move(counts);
    call.call.out_counts = kept.data();
}

std::vector<uint64_t> counts_of(const Tensors &tensors)
{
    std::vector<uint64_t> counts;

    for (auto &tensor : tensors)
        counts.push_back(static_cast<uint64_t>(tensor.numel()));
    return counts;
}

bool are_uneven(const Tensors &tensors)
{
    return std::any_of(tensors.begin(), tensors.end(), [&](const at::Tensor &tensor) {
        return tensor.numel() != tensors[0].numel();
    });
}

static const char *start_of(const at::Tensor &tensor)
{
    return static_cast<const char *>(tensor.const_data_ptr());
}

at::Tensor apart(const at::Tensor &input, const at::Tensor &output, bool same_shard)
{
    /* What is not plain is read from a copy, or written when each peer has read. */
    if (same_shard || !is_plain(input) || !is_plain(output)) return input;
    if (start_of(input) >= start_of(output) + output.nbytes()) return input;
    if (start_of(output) >= start_of(input) + input.nbytes()) return input;
    return input.detach().clone();
}

static bool is_same(const at::Tensor &a, const at::Tensor &b)
{
    return is_plain(a) && is_plain(b) && start_of(a) == start_of(b);
}

at::Tensor apart_from_all(at::Tensor input, const Tensors &outputs, int rank)
{
    for (int i = 0; auto &output : outputs)
        input = apart(input, output, i++ == rank && is_same(input, output));
    return input;
}

Tensors all_apart(Tensors inputs, const at::Tensor &output, int rank)
{
    for (int i = 0; auto &input : inputs)
        input = apart(input, output, i++ == rank && is_same(input, output));
    return inputs;
}

bool is_shard_of(const at::Tensor &shard, const at::Tensor &all, int rank, int size)
{
    size_t offset = all.nbytes() / static_cast<size_t>(size) * static_cast<size_t>(rank);

    return is_plain(shard) && is_plain(all) && start_of(shard) == start_of(all) + offset;
}

} // namespace rdmatrain
