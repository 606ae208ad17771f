/* SPDX-License-Identifier: Apache-2.0 */
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "arena/private.h"

#define MAX_NODES 1024
#define BITS_PER_LONG (8 * sizeof(unsigned long))

/* How many CPUs of the set are of the node; -1 when there is no such node. */
static int count_cpus(int node, const cpu_set_t *set)
{
    char path[64];
    unsigned first, last;
    int num = 0, fields;
    FILE *list;

    snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist", node);
    list = fopen(path, "re");
    if (list == NULL) return -1;
    while ((fields = fscanf(list, "%u-%u", &first, &last)) >= 1) { /* as in 0-3,8,10-11 */
        for (unsigned cpu = first; cpu <= (fields == 2 ? last : first) && cpu < CPU_SETSIZE; cpu++)
            num += CPU_ISSET(cpu, set) != 0;
        if (fgetc(list) != ',') break;
    }
    fclose(list);
    return num;
}

int rdt_numa_node(void)
{
    cpu_set_t set;
    int mine = -1, num_nodes = 0;

    if (sched_getaffinity(0, sizeof(set), &set) < 0) return -1;
    for (int node = 0; node < MAX_NODES; node++) {
        int num = count_cpus(node, &set);

        if (num < 0) continue;
        num_nodes++;
        if (num == CPU_COUNT(&set)) mine = node;
    }
    return num_nodes > 1 ? mine : -1;
}

/* By the system call, so that libnuma is no dependency. A kernel without NUMA refuses, which is as
 * good: the policy of a shared mapping belongs to the file, so the peers' first touches follow it. */
void rdt_numa_prefer(void *addr, size_t bytes, int node)
{
    unsigned long mask[MAX_NODES / BITS_PER_LONG] = {0};

    mask[(unsigned)node / BITS_PER_LONG] |= 1ul << ((unsigned)node % BITS_PER_LONG);
    syscall(SYS_mbind, addr, bytes, MPOL_PREFERRED, mask, MAX_NODES + 1ul, 0u);
}
