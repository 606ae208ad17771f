/* SPDX-License-Identifier: Apache-2.0 */
#include "c10d_allocator.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>

namespace rdmatrain {

namespace {

constexpr size_t kMinBytes = 64 << 10; /* smaller ones would waste much of their last page */
constexpr uint8_t kPriority = 255;

c10::Allocator *fallback; /* what torch had; written once, before any block of it can come here */

/* Deletes what both allocators below gave, and what the fallback gave through them. */
void release(void *ptr)
{
    if (ptr == nullptr) return;
    if (!rdt_arena_owns(ptr)) {
        fallback->raw_deallocate(ptr);
        return;
    }
    c10::profiledCPUMemoryReporter().Delete(ptr); /* first: then it may be another one's address */
    rdt_arena_free(ptr);
}

c10::DataPtr wrap(void *ptr)
{
    return {ptr, ptr, &release, c10::Device(c10::DeviceType::CPU)};
}

c10::DataPtr take(size_t bytes)
{
    void *ptr = rdt_arena_alloc(bytes);

    if (ptr == nullptr) return wrap(nullptr);
    c10::DataPtr block = wrap(ptr);
    c10::profiledCPUMemoryReporter().New(ptr, bytes);
    return block;
}

/* Of the arena, or an error. */
struct ArenaAllocator : c10::Allocator {
    c10::DataPtr allocate(size_t bytes) override
    {
        if (bytes == 0) return wrap(nullptr);
        c10::DataPtr block = take(bytes);
        TORCH_CHECK_WITH(OutOfMemoryError, block, "rdmatrain: the arena ",
                         rdt_arena_is_open() ? "has no room for " : "is not open: it cannot give ",
                         bytes, " bytes");
        return block;
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void *dest, const void *src, std::size_t count) const override
    {
        default_copy_data(dest, src, count);
    }
};

/* Of the arena where that is worth it and possible, else of the fallback. */
struct DefaultAllocator : ArenaAllocator {
    c10::DataPtr allocate(size_t bytes) override
    {
        if (bytes >= kMinBytes)
            if (c10::DataPtr block = take(bytes)) return block;
        return wrap(fallback->raw_allocate(bytes));
    }
};

} // namespace

void install_allocator()
{
    static auto *const allocator = new DefaultAllocator; /* torch wants it to live for ever */
    c10::Allocator *current = c10::GetCPUAllocator();

    TORCH_CHECK_WITH(OutOfMemoryError, rdt_arena_open() == RDT_OK, rdt_last_error());
    if (current == allocator) return;
    TORCH_CHECK(fallback == nullptr, "rdmatrain: another CPU allocator was installed after the "
                                     "arena: install that one first");
    TORCH_CHECK(current->raw_deleter() != nullptr,
                "rdmatrain: torch's CPU allocator was replaced by one without a raw deleter, which "
                "the arena cannot stand in for");
    fallback = current;
    c10::SetCPUAllocator(allocator, kPriority);
    TORCH_CHECK(c10::GetCPUAllocator() == allocator, "rdmatrain: torch keeps its CPU allocator");
}

at::Tensor arena_empty(at::IntArrayRef size, at::ScalarType dtype)
{
    static auto *const allocator = new ArenaAllocator;

    return at::detail::empty_generic(size, allocator, c10::DispatchKeySet(c10::DispatchKey::CPU),
                                     dtype, std::nullopt);
}

} // namespace rdmatrain
