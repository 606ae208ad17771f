/* SPDX-License-Identifier: Apache-2.0 */
/* CUDA's driver with GPUs of host memory: at their addresses a CPU faults, and what is copied goes through
 * another mapping, when somebody waits for it. As strict as the Driver API says: a context has to be current, a
 * dmabuf is of whole pages that were allocated. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    OK,
    INVALID_VALUE,
    OUT_OF_MEMORY,
    NOT_INITIALIZED,
    INVALID_CONTEXT = 201,
    NOT_SUPPORTED = 801
};
enum { FLUSH_OPTIONS = 117, DMABUF_SUPPORTED = 124 };
#define ALLOCATIONS 64
#define PAGE 4096u
#define SKEW 512u /* what is allocated begins so much before a page, with which its dmabuf begins */

typedef struct copy { /* to a GPU, from memory that is not pinned: it happens when somebody waits */
    uint8_t *to, *data;
    size_t bytes;
} copy_t;

typedef struct allocation {
    uint8_t *addr, *seen; /* mapped: a page before the dmabuf's first */
    size_t bytes;
    int fd;
} allocation_t;

/* Set by the test. dmabuf: whether there are any; -1: a driver that has never heard of them. */
int fake_cuda_devices = 1, fake_cuda_dmabuf = 1, fake_cuda_room = ALLOCATIONS;
/* Looked at by the test. */
int fake_cuda_contexts, fake_cuda_flushes, fake_cuda_used_device = -1;

static allocation_t allocations[ALLOCATIONS];
static _Thread_local copy_t copies[ALLOCATIONS];
static _Thread_local int num_copies;
static int is_initialized;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of who has which allocation */
static _Thread_local void *current;

int fake_cuda_allocations(void)
{
    int num = 0;

    for (int i = 0; i < ALLOCATIONS; i++)
        num += allocations[i].addr != NULL;
    return num;
}

int cuInit(unsigned flags)
{
    is_initialized = flags == 0;
    return is_initialized ? OK : INVALID_VALUE;
}

int cuDeviceGetCount(int *count)
{
    *count = fake_cuda_devices;
    return is_initialized ? OK : NOT_INITIALIZED;
}

int cuDeviceGet(int *device, int index)
{
    if (index < 0 || index >= fake_cuda_devices) return INVALID_VALUE;
    *device = index;
    return OK;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    if (device < 0 || device >= fake_cuda_devices) return INVALID_VALUE;
    if (attribute == DMABUF_SUPPORTED && fake_cuda_dmabuf >= 0)
        *value = fake_cuda_dmabuf;
    else if (attribute == FLUSH_OPTIONS)
        *value = 1;
    else
        return INVALID_VALUE;
    return OK;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
    *context = &allocations[device];
    fake_cuda_used_device = device;
    __atomic_add_fetch(&fake_cuda_contexts, 1, __ATOMIC_SEQ_CST);
    return OK;
}

/* With the last reference goes what was allocated: whoever frees it after that is told. */
int cuDevicePrimaryCtxRelease_v2(int device)
{
    if (device < 0 || device >= fake_cuda_devices || fake_cuda_contexts == 0) return INVALID_VALUE;
    if (__atomic_sub_fetch(&fake_cuda_contexts, 1, __ATOMIC_SEQ_CST) == 0) current = NULL;
    return OK;
}

int cuCtxSetCurrent(void *context)
{
    current = context;
    return OK;
}

static uintptr_t first(const allocation_t *a)
{
    return (uintptr_t)a->addr + PAGE - SKEW;
}

/* That all of [address, address + bytes) lies in. */
static allocation_t *find(unsigned long long address, size_t bytes)
{
    for (int i = 0; i < ALLOCATIONS; i++) {
        allocation_t *a = &allocations[i];

        if (a->addr != NULL && address >= first(a) && address + bytes <= first(a) + a->bytes)
            return a;
    }
    return NULL;
}

static int allocate(allocation_t **found, size_t bytes)
{
    allocation_t *a = allocations;

    while (a < allocations + fake_cuda_room && a->addr != NULL)
        a++;
    if (a == allocations + fake_cuda_room) return OUT_OF_MEMORY;
    *a = (allocation_t){.bytes = bytes, .fd = memfd_create("gpu", MFD_CLOEXEC)};
    if (ftruncate(a->fd, (off_t)bytes) != 0) return OUT_OF_MEMORY;
    a->addr = mmap(NULL, PAGE + bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    a->seen = mmap(NULL, PAGE + bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mmap(a->seen + PAGE, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, a->fd, 0);
    *found = a;
    return OK;
}

int cuMemAlloc_v2(unsigned long long *address, size_t bytes)
{
    allocation_t *a = NULL;
    int error;

    if (current == NULL) return INVALID_CONTEXT;
    pthread_mutex_lock(&lock);
    error = allocate(&a, bytes);
    pthread_mutex_unlock(&lock);
    if (error == OK) *address = first(a);
    return error;
}

int cuMemFree_v2(unsigned long long address)
{
    allocation_t *a = find(address, 1);

    if (current == NULL) return INVALID_CONTEXT;
    if (a == NULL || address != first(a)) return INVALID_VALUE;
    munmap(a->addr, PAGE + a->bytes);
    munmap(a->seen, PAGE + a->bytes);
    close(a->fd);
    pthread_mutex_lock(&lock);
    a->addr = NULL;
    pthread_mutex_unlock(&lock);
    return OK;
}

int cuCtxSynchronize(void)
{
    if (current == NULL) return INVALID_CONTEXT;
    for (int i = 0; i < num_copies; i++) {
        memcpy(copies[i].to, copies[i].data, copies[i].bytes);
        free(copies[i].data);
    }
    num_copies = 0;
    return OK;
}

int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t bytes)
{
    const allocation_t *a = find(to, bytes);
    copy_t *copy = &copies[num_copies];

    if (current == NULL) return INVALID_CONTEXT;
    if (a == NULL) return INVALID_VALUE;
    *copy = (copy_t){a->seen + (to - (uintptr_t)a->addr), malloc(bytes), bytes};
    memcpy(copy->data, from, bytes);
    num_copies++;
    return OK;
}

int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t bytes)
{
    const allocation_t *a = find(from, bytes);

    if (a == NULL) return INVALID_VALUE;
    if (cuCtxSynchronize() != OK) return INVALID_CONTEXT;
    memcpy(to, a->seen + (from - (uintptr_t)a->addr), bytes);
    return OK;
}

int cuMemGetHandleForAddressRange(void *fd, unsigned long long address, size_t bytes, int type,
                                  unsigned long long flags)
{
    const allocation_t *a = find(address, bytes);

    if (current == NULL) return INVALID_CONTEXT;
    if (a == NULL || type != 1 || flags != 0 || bytes % PAGE != 0) return INVALID_VALUE;
    if (address != (uintptr_t)a->addr + PAGE) return INVALID_VALUE;
    if (!fake_cuda_dmabuf) return NOT_SUPPORTED;
    *(int *)fd = dup(a->fd);
    return OK;
}

int cuFlushGPUDirectRDMAWrites(int target, int scope)
{
    if (current == NULL) return INVALID_CONTEXT;
    if (target != 0 || scope != 100) return INVALID_VALUE;
    __atomic_add_fetch(&fake_cuda_flushes, 1, __ATOMIC_SEQ_CST);
    return OK;
}

int cuGetErrorString(int error, const char **text)
{
    *text = error == OUT_OF_MEMORY   ? "out of memory"
            : error == NOT_SUPPORTED ? "not supported"
                                     : NULL;
    return *text != NULL ? OK : INVALID_VALUE;
}
