/* SPDX-License-Identifier: Apache-2.0 */
/* An accelerator for tests on machines without one: torch's PrivateUse1, as "fakegpu".
 *
 * Its memory is the host's; its streams are threads that run what is queued, in order, so that
 * whatever does not wait as it must sees old values. Tests hold back kinds of work (kernels, copies in
 * each direction) and count what has run. Memory that is freed while a stream uses it which was not
 * recorded on it is a violation, and is overwritten. Other operations run on the CPU, in turn. */
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <thread>

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

constexpr auto kType = c10::DeviceType::PrivateUse1;
const c10::Device kDevice(kType, 0);

enum Kind { KERNEL, DOWN, UP, ACROSS, NUM_KINDS };

/* How many operations of each kind may pass. */
struct Gates {
    std::mutex mutex;
    std::condition_variable changed;
    int64_t allowed[NUM_KINDS] = {-1, -1, -1, -1}; /* -1: any number */
    int64_t passed[NUM_KINDS] = {}, finished[NUM_KINDS] = {};

    void enter(Kind kind)
    {
        std::unique_lock<std::mutex> lock(mutex);

        changed.wait(lock, [&] { return allowed[kind] < 0 || passed[kind] < allowed[kind]; });
        passed[kind]++;
    }
    void leave(Kind kind)
    {
        std::lock_guard<std::mutex> lock(mutex);

        finished[kind]++;
    }
};
Gates &gates = *new Gates; /* nothing here is destroyed: the threads run until the process ends */

class Stream
{
  public:
    Stream()
    {
        std::thread([this] { run(); }).detach();
    }

    uint64_t push(std::function<void()> task)
    {
        std::lock_guard<std::mutex> lock(mutex_);

        tasks_.push_back(std::move(task));
        changed_.notify_all();
        return ++num_queued_;
    }
    uint64_t num_queued()
    {
        std::lock_guard<std::mutex> lock(mutex_);

        return num_queued_;
    }
    bool has_run(uint64_t number)
    {
        std::lock_guard<std::mutex> lock(mutex_);

        return num_run_ >= number;
    }
    void wait(uint64_t number)
    {
        std::unique_lock<std::mutex> lock(mutex_);

        changed_.wait(lock, [&] { return num_run_ >= number; });
    }

  private:
    void run()
    {
        std::unique_lock<std::mutex> lock(mutex_);

        for (;;) {
            changed_.wait(lock, [this] { return !tasks_.empty(); });
            auto task = std::move(tasks_.front());
            tasks_.pop_front();
            lock.unlock();
            task();
            task = nullptr;
            lock.lock();
            num_run_++;
            changed_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void()>> tasks_;
    uint64_t num_queued_ = 0, num_run_ = 0;
};

constexpr int kNumStreams = 9; /* 0 is the default one */
thread_local c10::StreamId current_id = 0;

Stream &stream_of(c10::StreamId id)
{
    static auto *streams = new Stream[kNumStreams];

    return streams[id];
}

/* A point in a stream's queue. */
struct Event {
    c10::StreamId id;
    uint64_t number;
};

struct Block {
    size_t bytes;
    c10::StreamId owner;
    std::set<c10::StreamId> recorded, used;
};
std::mutex blocks_mutex;
auto &blocks = *new std::map<void *, Block>;
int64_t num_violations = 0;

void free_block(void *ptr)
{
    std::unique_lock<std::mutex> lock(blocks_mutex);
    auto node = blocks.extract(ptr);
    Block &block = node.mapped();
    std::vector<Event> uses;
    bool is_safe = true;

    for (c10::StreamId id : block.used)
        if (id != block.owner && block.recorded.count(id) == 0) is_safe = false;
    if (!is_safe) {
        num_violations++;
        memset(ptr, 0xdd, block.bytes); /* and leaked, so that what comes late does no harm */
        return;
    }
    for (c10::StreamId id : block.recorded)
        uses.push_back({id, stream_of(id).num_queued()});
    stream_of(block.owner).push([ptr, uses, bytes = block.bytes] {
        for (const Event &use : uses)
            stream_of(use.id).wait(use.number);
        memset(ptr, 0xdd, bytes);
        free(ptr);
    });
}

void note_use(const at::Tensor &tensor)
{
    std::lock_guard<std::mutex> lock(blocks_mutex);
    auto found = blocks.find(tensor.storage().mutable_data());

    if (found != blocks.end()) found->second.used.insert(current_id);
}

struct DeviceAllocator : c10::Allocator {
    c10::DataPtr allocate(size_t bytes) override
    {
        if (bytes == 0) return {nullptr, nullptr, &c10::detail::deleteNothing, kDevice};
        void *ptr = malloc(bytes);
        std::lock_guard<std::mutex> lock(blocks_mutex);

        blocks[ptr] = {bytes, current_id, {}, {}};
        return {ptr, ptr, &free_block, kDevice};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
    void copy_data(void *to, const void *from, size_t bytes) const override
    {
        memcpy(to, from, bytes);
    }
};
DeviceAllocator device_allocator;

auto &pinned = *new std::map<const void *, size_t>; /* under blocks_mutex */

void free_pinned(void *ptr)
{
    std::lock_guard<std::mutex> lock(blocks_mutex);

    pinned.erase(ptr);
    free(ptr);
}

/* Queued copies hold the host's tensor, which is what recording an event on it is for. */
struct PinnedAllocator : c10::Allocator {
    c10::DataPtr allocate(size_t bytes) override
    {
        void *ptr = malloc(bytes + 1);
        std::lock_guard<std::mutex> lock(blocks_mutex);

        pinned[ptr] = bytes + 1;
        return {ptr, ptr, &free_pinned, c10::Device(c10::kCPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
    void copy_data(void *to, const void *from, size_t bytes) const override
    {
        memcpy(to, from, bytes);
    }
};
PinnedAllocator pinned_allocator;

struct Guard final : c10::impl::DeviceGuardImplInterface {
    c10::DeviceType type() const override { return kType; }
    c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
    c10::Device getDevice() const override { return kDevice; }
    void setDevice(c10::Device) const override {}
    void uncheckedSetDevice(c10::Device) const noexcept override {}
    c10::DeviceIndex deviceCount() const noexcept override { return 1; }
    static c10::Stream wrap(c10::StreamId id)
    {
        return c10::Stream(c10::Stream::UNSAFE, kDevice, id);
    }
    c10::Stream getStream(c10::Device) const override { return wrap(current_id); }
    c10::Stream getDefaultStream(c10::Device) const override { return wrap(0); }
    c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override
    {
        static std::atomic<int> next{0};

        return wrap(1 + next++ % (kNumStreams - 1));
    }
    c10::Stream getNewStream(c10::Device device, int) const override
    {
        return getStreamFromGlobalPool(device, false);
    }
    c10::Stream exchangeStream(c10::Stream stream) const override
    {
        return wrap(std::exchange(current_id, stream.id()));
    }
    bool queryStream(const c10::Stream &stream) const override
    {
        return stream_of(stream.id()).has_run(stream_of(stream.id()).num_queued());
    }
    void synchronizeStream(const c10::Stream &stream) const override
    {
        stream_of(stream.id()).wait(stream_of(stream.id()).num_queued());
    }
    void synchronizeDevice(c10::DeviceIndex) const override
    {
        for (int id = 0; id < kNumStreams; id++)
            synchronizeStream(wrap(id));
    }

    void record(void **event, const c10::Stream &stream, c10::DeviceIndex,
                c10::EventFlag) const override
    {
        if (*event == nullptr) *event = new Event;
        *static_cast<Event *>(*event) = {stream.id(), stream_of(stream.id()).num_queued()};
    }
    void block(void *event, const c10::Stream &stream) const override
    {
        Event point = *static_cast<Event *>(event);

        if (point.id == stream.id()) return;
        stream_of(stream.id()).push([point] { stream_of(point.id).wait(point.number); });
    }
    bool queryEvent(void *event) const override
    {
        auto *point = static_cast<Event *>(event);

        return point == nullptr || stream_of(point->id).has_run(point->number);
    }
    void synchronizeEvent(void *event) const override
    {
        auto *point = static_cast<Event *>(event);

        stream_of(point->id).wait(point->number);
    }
    void destroyEvent(void *event, c10::DeviceIndex) const noexcept override
    {
        delete static_cast<Event *>(event);
    }
    void recordDataPtrOnStream(const c10::DataPtr &data, const c10::Stream &stream) const override
    {
        std::lock_guard<std::mutex> lock(blocks_mutex);
        auto found = blocks.find(data.get());

        if (found != blocks.end()) found->second.recorded.insert(stream.id());
    }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks : at::PrivateUse1HooksInterface {
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    c10::DeviceIndex deviceCount() const override { return 1; }
    void setCurrentDevice(c10::DeviceIndex) const override {}
    c10::DeviceIndex getCurrentDevice() const override { return 0; }
    c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
    c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
    at::Device getDeviceFromPtr(void *) const override { return kDevice; }
    at::Allocator *getPinnedMemoryAllocator() const override { return &pinned_allocator; }
    bool isPinnedPtr(const void *data) const override
    {
        std::lock_guard<std::mutex> lock(blocks_mutex);
        auto after = pinned.upper_bound(data);

        if (after == pinned.begin()) return false;
        --after;
        return data < static_cast<const char *>(after->first) + after->second;
    }
    void resizePrivateUse1Bytes(const c10::Storage &storage, size_t bytes) const override
    {
        c10::DataPtr data = device_allocator.allocate(bytes);

        synchronize();
        if (storage.nbytes() > 0)
            memcpy(data.get(), storage.data(), std::min(bytes, storage.nbytes()));
        storage.set_data_ptr_noswap(std::move(data));
        storage.set_nbytes(bytes);
    }
    static void synchronize() { stream_of(current_id).wait(stream_of(current_id).num_queued()); }
};

void enqueue(Kind kind, std::function<void()> task)
{
    stream_of(current_id).push([kind, task = std::move(task)] {
        gates.enter(kind);
        task();
        gates.leave(kind);
    });
}

/* The same memory as a tensor of the CPU, which does not keep it alive. */
at::Tensor on_host(const at::Tensor &tensor)
{
    return at::from_blob(
        tensor.data_ptr(), tensor.sizes(), tensor.strides(), [](void *) {},
        at::TensorOptions(tensor.dtype()), c10::Device(c10::kCPU));
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device>, std::optional<bool>)
{
    return at::detail::empty_strided_generic(size, stride, &device_allocator,
                                             c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                             c10::dtype_or_default(dtype));
}

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                 std::optional<at::MemoryFormat> format)
{
    return at::detail::empty_generic(size, &device_allocator,
                                     c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                     c10::dtype_or_default(dtype), format);
}

Kind kind_of_copy(const at::Tensor &from, const at::Tensor &to)
{
    if (from.is_cpu()) return UP;
    return to.is_cpu() ? DOWN : ACROSS;
}

at::Tensor copy_from(const at::Tensor &from, const at::Tensor &to, bool non_blocking)
{
    Kind kind = kind_of_copy(from, to);
    at::Tensor source = on_host(from), target = on_host(to);
    at::Tensor host = kind == UP ? from : kind == DOWN ? to : at::Tensor();

    if (to.numel() == 0) return to;
    note_use(from);
    note_use(to);
    source._set_conj(from.is_conj());
    source._set_neg(from.is_neg());
    enqueue(kind, [source, target, host] { const_cast<at::Tensor &>(target).copy_(source); });
    if (kind != ACROSS && !(non_blocking && host.is_pinned())) Hooks::synchronize();
    return to;
}

at::Tensor copy_from_and_resize(const at::Tensor &from, const at::Tensor &to)
{
    if (from.sizes() != to.sizes())
        at::native::resize_impl_cpu_(to.unsafeGetTensorImpl(), from.sizes(), std::nullopt);
    return copy_from(from, to, false);
}

at::Tensor &fill(at::Tensor &self, const at::Scalar &value)
{
    note_use(self);
    enqueue(KERNEL, [self = on_host(self), value]() mutable { self.fill_(value); });
    return self;
}

at::Tensor &zero(at::Tensor &self)
{
    return fill(self, 0);
}

const at::Tensor &resize(const at::Tensor &self, c10::SymIntArrayRef size,
                         std::optional<at::MemoryFormat>)
{
    auto sizes = C10_AS_INTARRAYREF_SLOW(size);
    size_t bytes = at::detail::computeStorageNbytesContiguous(sizes, self.element_size(),
                                                              self.storage_offset());

    if (bytes > self.storage().nbytes())
        at::detail::getPrivateUse1Hooks().resizePrivateUse1Bytes(self.storage(), bytes);
    self.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
    return self;
}

void on_cpu(const c10::OperatorHandle &op, torch::jit::Stack *stack)
{
    at::native::cpu_fallback(op, stack, /* error_on_views= */ true);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m)
{
    m.impl("empty.memory_format", empty);
    m.impl("empty_strided", empty_strided);
    m.impl("_copy_from", copy_from);
    m.impl("_copy_from_and_resize", copy_from_and_resize);
    m.impl("fill_.Scalar", fill);
    m.impl("zero_", zero);
    m.impl("resize_", resize);
    m.impl("view", at::native::view);
    m.impl("view_as_real", at::native::view_as_real);
    m.impl("as_strided", at::native::as_strided_tensorimpl);
    m.impl("set_.source_Storage_storage_offset", at::native::set_storage_cpu_);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m)
{
    m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
}

const bool is_registered = [] {
    c10::SetAllocator(kType, &device_allocator);
    at::RegisterPrivateUse1HooksInterface(new Hooks);
    return true;
}();

} // namespace

extern "C" {

/* From now on so many operations of the kind run; -1 for any number. */
void fakegpu_allow(int kind, int64_t count)
{
    std::lock_guard<std::mutex> lock(gates.mutex);

    gates.allowed[kind] = count < 0 ? -1 : gates.passed[kind] + count;
    gates.changed.notify_all();
}

int64_t fakegpu_num_finished(int kind)
{
    std::lock_guard<std::mutex> lock(gates.mutex);

    return gates.finished[kind];
}

int64_t fakegpu_num_violations()
{
    std::lock_guard<std::mutex> lock(blocks_mutex);

    return num_violations;
}

void fakegpu_synchronize()
{
    Guard().synchronizeDevice(0);
}
}
