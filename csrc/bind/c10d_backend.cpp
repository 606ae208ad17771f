/* SPDX-License-Identifier: Apache-2.0 */
#include "c10d_backend.h"

#include "c10d_allocator.h"

namespace rdmatrain {

Backend::Backend(StorePtr store, int rank, int size, rdt_comm_t *comm, const GroupOptions &options,
                 std::string note)
    : c10d::Backend(rank, size), store_(std::move(store)), owner_(CommOwner::make(comm)),
      options_(options), note_(std::move(note)), timeout_(options.timeout),
      split_store_(c10::intrusive_ptr<c10d::Store>()), split_(c10::intrusive_ptr<c10d::Backend>())
{
    init();
}

Backend::~Backend()
{
    owner_->close();
}

OptionsPtr Backend::getBackendOptions()
{
    auto copy = c10::make_intrusive<GroupOptions>(options_);

    copy->timeout = timeout_;
    return copy;
}

WorkPtr Backend::run(const Checked &check, TensorCall &&call, std::chrono::milliseconds timeout,
                     bool async)
{
    if (timeout == c10d::kUnsetTimeout) timeout = timeout_;
    call.call.timeout_ns =
        timeout.count() > 0 ? static_cast<uint64_t>(timeout.count()) * 1000000u : RDT_NO_TIMEOUT;
    call.call.background = async;
    if (!call.staged.empty())
        if (std::string reason = why_not_staged(call); !reason.empty()) check.refuse(reason);
    c10::intrusive_ptr<Work> work = post(check, std::move(call));
    if (coalescing_) {
        std::lock_guard<std::mutex> lock(mutex_);

        coalesced_.push_back(work);
    }
    return work;
}

c10::intrusive_ptr<Work> Backend::post(const Checked &check, TensorCall &&call)
{
    uint64_t seq = check.collective ? ++seq_ : seq_.load();
    Stager &stager = owner_->stager();

    if (call.staged.empty() && !stager.is_busy()) {
        auto work =
            c10::make_intrusive<Work>(rank_, check.op, check.title, owner_, std::move(call), seq);
        Work::post(work);
        return work;
    }
    auto work =
        c10::make_intrusive<StagedWork>(rank_, check.op, check.title, owner_, std::move(call), seq);
    stager.submit(work, static_cast<uint32_t>(size_));
    return work;
}

/* All calls were checked before the first is posted; to a profiler they are one. */
WorkPtr Backend::run_all(const Checked &check, std::vector<TensorCall> &&calls,
                         std::chrono::milliseconds timeout, bool async)
{
    Checked part = check;
    std::vector<WorkPtr> works;
    Tensors inputs;

    part.title = nullptr;
    for (auto &call : calls) {
        for (size_t i = 0; i < call.num_inputs; i++)
            inputs.push_back(call.held[i]);
        call.call.parts = static_cast<uint32_t>(calls.size());
        works.push_back(run(part, std::move(call), timeout, async));
    }
    return c10::make_intrusive<CoalescedWork>(rank_, check.op, std::move(works), check.title,
                                              inputs);
}

std::string Backend::transport(int rank) const
{
    CommOwner::User user(*owner_);
    rdt_comm_t *comm = user.comm();

    if (comm == nullptr) throw_status(RDT_CLOSED, "the process group was destroyed");
    return rdt_comm_transport(comm, static_cast<uint32_t>(rank));
}

rdt_peer_stats_t Backend::stats(int rank) const
{
    CommOwner::User user(*owner_);
    rdt_peer_stats_t stats;

    if (user.comm() == nullptr) throw_status(RDT_CLOSED, "the process group was destroyed");
    rdt_status_t st = rdt_comm_stats(user.comm(), static_cast<uint32_t>(rank), &stats);
    if (st != RDT_OK) throw_status(st, rdt_last_error());
    return stats;
}

void Backend::startCoalescing()
{
    coalescing_ = true;
}

WorkPtr Backend::endCoalescing()
{
    std::lock_guard<std::mutex> lock(mutex_);

    coalescing_ = false;
    return c10::make_intrusive<CoalescedWork>(rank_, c10d::OpType::COALESCED,
                                              std::exchange(coalesced_, {}));
}

/* The CPU has no index. */
bool Backend::supportsTensorAlloc(c10::DeviceIndex device)
{
    return device < 0 && rdt_arena_is_open();
}

at::Tensor Backend::allocateTensor(long size, at::TensorOptions options)
{
    TORCH_CHECK(options.device().is_cpu(), "rdmatrain: allocateTensor: no arena is on ",
                options.device());
    return arena_empty({size}, c10::typeMetaToScalarType(options.dtype()));
}

/* Of the arena, which all groups of the process share. */
std::unordered_map<std::string, uint64_t> Backend::getMemoryStats()
{
    rdt_arena_stats_t stats;

    rdt_arena_get_stats(&stats);
    return {
        {"reserved_bytes", stats.reserved_bytes}, {"extent_bytes", stats.extent_bytes},
        {"in_use_bytes", stats.in_use_bytes},     {"peak_in_use_bytes", stats.peak_in_use_bytes},
        {"cached_bytes", stats.cached_bytes},     {"num_blocks", stats.num_blocks},
        {"num_refused", stats.num_refused}};
}

void Backend::registerOnCompletionHook(Watch::Hook &&hook)
{
    owner_->watch().set_hook(hook);
    onCompletionHook_ = std::move(hook); /* hasHooks() asks for it */
}

c10d::ErrorType Backend::getError()
{
    CommOwner::User user(*owner_);
    char text[1];

    if (user.comm() == nullptr) return c10d::ErrorType::COMM_ERROR;
    switch (rdt_comm_status(user.comm(), text, sizeof(text))) {
    case RDT_OK:
        return c10d::ErrorType::SUCCESS;
    case RDT_TIMEOUT:
        return c10d::ErrorType::TIMEOUT;
    case RDT_REMOTE_ERROR:
    case RDT_PEER_LOST:
        return c10d::ErrorType::REMOTE_ERROR;
    default:
        return c10d::ErrorType::COMM_ERROR;
    }
}

void Backend::abort()
{
    CommOwner::User user(*owner_);
    rdt_comm_t *comm = user.comm();

    if (comm != nullptr) rdt_comm_abort(comm, "the process group was aborted");
}

void Backend::shutdown()
{
    owner_->close();
}

} // namespace rdmatrain
