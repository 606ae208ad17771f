/* SPDX-License-Identifier: Apache-2.0 */
/* With libibverbs the devices are those of sysfs; without it the status says what is missing. */
#include <dirent.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "check.h"
#include "ibv/ibv_api.h"
#include "rdmatrain/verbs.h"

static bool in_sysfs(const char *name)
{
    DIR *dir = opendir("/sys/class/infiniband");
    struct dirent *entry;
    bool found = false;

    while (dir != NULL && (entry = readdir(dir)) != NULL)
        found |= strcmp(entry->d_name, name) == 0;
    if (dir != NULL) closedir(dir);
    return found;
}

static void check_device(void *arg, const char *name)
{
    CHECK(in_sysfs(name), "device %s is not in sysfs", name);
    (*(int *)arg)++;
}

int main(void)
{
    rdt_ibv_api_t api = {0};
    int num = 0;
    rdt_status_t st = rdt_ibv_load(&api);

    if (st != RDT_OK) {
        CHECK_EQ(st, RDT_NO_LIBRARY);
        CHECK(strstr(rdt_last_error(), "libibverbs") != NULL, "%s", rdt_last_error());
        CHECK(api.get_device_list == NULL, "the table was written on failure");
        CHECK_EQ(rdt_verbs_devices(check_device, &num), RDT_NO_LIBRARY);
        printf("SKIP: the calls themselves: %s\n", rdt_last_error());
        return 77;
    }
    CHECK(rdt_verbs_devices(check_device, &num) == RDT_OK, "%s", rdt_last_error());
    printf("%d devices\n", num);
    return 0;
}
