/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors as the C core sees them: a dtype, counts of elements, and pointers. */
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include "rdmatrain/coll.h"

namespace rdmatrain {

using Tensors = std::vector<at::Tensor>;

/* Pinned memory that stands for a tensor of a device while a call runs; both as flat bytes. */
struct StagedBuffer {
    at::Tensor device, host;
    bool load, store; /* copied to the host before the call, back to the device after it */
};

/* A call with what it keeps alive: tensors that C reads and writes through bare pointers. */
struct TensorCall {
    /* Of calls whose shards lie apart or differ in size: an entry for each rank, or none. */
    struct Shards {
        std::vector<const void *> in;
        std::vector<void *> out;
        std::vector<uint64_t> in_counts, out_counts;
    };

    rdt_call_t call{};
    size_t num_inputs = 0;                /* of held: the first ones, which a profiler is shown */
    Tensors outputs;                      /* what the future yields */
    c10::SmallVector<at::Tensor, 2> held; /* inputs and outputs, or contiguous copies of them */
    std::vector<std::pair<at::Tensor, at::Tensor>> copy_back; /* to a tensor, from its copy */
    std::unique_ptr<Shards> shards;   /* what call points to; it stays in place when this moves */
    std::function<void()> finish;     /* the last step, when all is well; before copy_back */
    std::vector<StagedBuffer> staged; /* see c10d_staging.h; empty when all tensors are the CPU's */
};

/* A call of so many elements. Of what is only moved any dtype will do: one that the core has no name
 * for travels as unsigned words of its size. */
TensorCall call_for(rdt_coll_t coll, const at::Tensor &tensor);
/* The shape of the tensor becomes part of the call: it must be the same on all ranks. */
void compare_shape(TensorCall &call, const at::Tensor &tensor);

/* The core's name of a dtype, or nothing. */
std::optional<rdt_dtype_t> dtype_of(at::ScalarType type);

/* A tensor to read: itself, or a contiguous copy that the call keeps. All inputs come first. */
const void *readable(TensorCall &call, const at::Tensor &tensor);
/* A tensor to write, and to read when load is set: itself, or a copy that is copied back. */
void *writable(TensorCall &call, const at::Tensor &tensor, bool load);

/* One tensor to or from each rank, which may differ in size. */
void read_shards(TensorCall &call, const Tensors &inputs);
void write_shards(TensorCall &call, const Tensors &outputs);
/* Says how many elements each shard has. */
void count_inputs(TensorCall &call, std::vector<uint64_t> counts);
void count_outputs(TensorCall &call, std::vector<uint64_t> counts);
std::vector<uint64_t> counts_of(const Tensors &tensors);
bool are_uneven(const Tensors &tensors);

/* The input, or a copy where writing the output would change it before each peer has read it: where
 * they share memory, and are not the same shard of this rank. */
at::Tensor apart(const at::Tensor &input, const at::Tensor &output, bool same_shard);
/* The input apart from one output for each rank, or one input for each rank from the output; those of
 * the rank may be the same memory. */
at::Tensor apart_from_all(at::Tensor input, const Tensors &outputs, int rank);
Tensors all_apart(Tensors inputs, const at::Tensor &output, int rank);
/* Whether the shard is that of the rank in a tensor which holds size of them. */
bool is_shard_of(const at::Tensor &shard, const at::Tensor &all, int rank, int size);

} // namespace rdmatrain
