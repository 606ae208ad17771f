/* SPDX-License-Identifier: Apache-2.0 */
/* What a call must be like, and how one that is not is refused. */
#include "c10d_backend.h"

#include <algorithm>

#include <ATen/EmptyTensor.h>

namespace rdmatrain {

/* The other ranks may be waiting for this call, so they are told: if they refuse it too, the group
 * goes on; if not, they fail with this reason. */
void Backend::Checked::refuse(const std::string &reason) const
{
    std::string text = std::string(name) + ": " + reason;

    if (collective) {
        TensorCall call;

        call.call.coll = RDT_REFUSED;
        call.call.refusal = text.c_str();
        backend.run(*this, std::move(call), c10d::kUnsetTimeout, true);
    }
    TORCH_CHECK(false, "rdmatrain: rank ", backend.getRank(), ": ", text);
}

/* False where its memory was taken away, as FSDP does between uses, or never was, as of a fake one. */
static bool has_memory(const at::Tensor &tensor)
{
    if (tensor.numel() == 0) return true;
    if (!tensor.has_storage() || !tensor.storage().data_ptr()) return false;
    return at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.itemsize(),
                                            static_cast<size_t>(tensor.storage_offset())) <=
           tensor.storage().nbytes();
}

void Backend::Checked::tensor(const at::Tensor &tensor) const
{
    if (!tensor.is_cpu() && !can_stage(tensor.device()))
        refuse("a tensor is on " + tensor.device().str() +
               ", and this backend moves tensors of the CPU and of accelerators with streams");
    if (tensor.layout() != at::kStrided)
        refuse("a tensor is sparse, which only all_reduce takes (in coordinate format)");
    if (!has_memory(tensor)) refuse("the memory of a tensor was freed, or it is fake");
}

const at::Tensor &Backend::Checked::only(const Tensors &tensors) const
{
    if (tensors.size() != 1)
        refuse("takes one tensor for each rank, not " + std::to_string(tensors.size()));
    tensor(tensors[0]);
    return tensors[0];
}

static std::string text_of(const at::Tensor &tensor)
{
    return std::to_string(tensor.numel()) + " of " + c10::toString(tensor.scalar_type());
}

void Backend::Checked::dtype(const char *what, const at::Tensor &tensor,
                             const at::Tensor &like) const
{
    this->tensor(tensor);
    if (tensor.scalar_type() != like.scalar_type())
        refuse("an " + std::string(what) + " tensor differs in dtype: elements are " +
               text_of(tensor) + ", " + text_of(like));
}

void Backend::Checked::each(const char *what, const Tensors &tensors, const at::Tensor &like) const
{
    auto size = static_cast<size_t>(backend.getSize());

    if (tensors.size() != size)
        refuse("needs one " + std::string(what) + " tensor for each rank, not " +
               std::to_string(tensors.size()));
    for (auto &tensor : tensors)
        dtype(what, tensor, like);
    auto &own = tensors[static_cast<size_t>(backend.getRank())];
    if (own.numel() != like.numel())
        refuse("the " + std::string(what) +
               " tensor of the rank itself differs in size: elements "
               "are " +
               text_of(own) + ", " + text_of(like));
}

void Backend::Checked::whole(const char *what, const at::Tensor &all, const at::Tensor &part) const
{
    int size = backend.getSize();

    tensor(part);
    dtype(what, all, part);
    if (all.numel() != part.numel() * size)
        refuse("the " + std::string(what) + " must have " + std::to_string(size) + " times " +
               std::to_string(part.numel()) + " elements, not " + std::to_string(all.numel()));
}

uint32_t Backend::Checked::root(int64_t rank) const
{
    if (rank < 0 || rank >= backend.getSize())
        refuse("root " + std::to_string(rank) + " is not a rank of the group");
    return static_cast<uint32_t>(rank);
}

static std::optional<rdt_redop_t> redop_of(c10d::ReduceOp::RedOpType op)
{
    static constexpr rdt_redop_t table[] = {RDT_SUM,  RDT_AVG, RDT_PRODUCT, RDT_MIN,       RDT_MAX,
                                            RDT_BAND, RDT_BOR, RDT_BXOR,    RDT_PREMUL_SUM};

    if (op >= sizeof(table) / sizeof(table[0])) return std::nullopt;
    return table[op];
}

void Backend::Checked::reduction(TensorCall &call, const at::Tensor &tensor,
                                 const c10d::ReduceOp &op) const
{
    auto redop = redop_of(op.op_);

    if (!redop) refuse("unknown reduction " + std::to_string(op.op_));
    if (!dtype_of(tensor.scalar_type()) || !rdt_can_reduce(call.call.dtype, *redop))
        refuse("reduction " + std::string(rdt_redop_name(*redop)) + " has no meaning for dtype " +
               c10::toString(tensor.scalar_type()));
    call.call.op = *redop;
    if (*redop != RDT_PREMUL_SUM) return;
    auto *premul = dynamic_cast<c10d::PreMulSumSupplement *>(op.supplement_.get());
    if (premul == nullptr) refuse("reduction PREMUL_SUM has no factor");
    auto &factor = premul->tensor_factor;
    call.call.factor = factor.defined() ? factor.item<double>() : premul->double_factor;
}

std::vector<uint64_t> Backend::Checked::split(const char *what, const at::Tensor &tensor,
                                              const Splits &splits) const
{
    auto size = static_cast<size_t>(backend.getSize());
    int64_t rows = tensor.dim() > 0 ? tensor.size(0) : 0, sum = 0;
    std::vector<uint64_t> counts;

    if (splits.empty()) {
        if (tensor.dim() == 0 || rows % static_cast<int64_t>(size) != 0)
            refuse("the " + std::string(what) + " has " + std::to_string(rows) +
                   " rows, which do not divide equally among " + std::to_string(size) + " ranks");
        return std::vector<uint64_t>(size, static_cast<uint64_t>(tensor.numel()) / size);
    }
    for (int64_t split : splits) {
        if (split < 0) refuse("a split of the " + std::string(what) + " is negative");
        sum += std::min(split, rows + 1); /* which cannot wrap */
        counts.push_back(static_cast<uint64_t>(rows > 0 ? tensor.numel() / rows : 0) *
                         static_cast<uint64_t>(split));
    }
    if (splits.size() != size || sum != rows)
        refuse("the " + std::string(what) + " has " + std::to_string(rows) + " rows, and its " +
               std::to_string(splits.size()) + " splits have " + std::to_string(sum) + " (for " +
               std::to_string(size) + " ranks)");
    return counts;
}

} // namespace rdmatrain
