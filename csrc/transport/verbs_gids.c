/* SPDX-License-Identifier: Apache-2.0 */
/* Which GID of this rank's port and which of the peer's: where one cannot be reached from the other, there
 * may be a pair that works, whatever their places in the two lists are. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "transport/verbs.h"

/* A packet of RoCE v2 is one of IPv4 or of IPv6, and a link-local address is known on its link only. */
typedef enum kind { NO_GID, IPV4, LINK_LOCAL, IPV6 } kind_t;

static kind_t kind_of(const uint8_t *gid)
{
    static const uint8_t zero[16], mapped[12] = {[10] = 0xff, [11] = 0xff};

    if (memcmp(gid, zero, sizeof(zero)) == 0) return NO_GID;
    if (memcmp(gid, mapped, sizeof(mapped)) == 0) return IPV4;
    return gid[0] == 0xfe && (gid[1] & 0xc0) == 0x80 ? LINK_LOCAL : IPV6;
}

/* Ports of InfiniBand find each other by LID: any two GIDs will do. */
static bool is_pair(const verbs_offer_rail_t *lower, uint32_t i, const verbs_offer_rail_t *higher,
                    uint32_t k)
{
    kind_t kind = kind_of(lower->gids[i]);

    if (lower->link_layer != IBV_LINK_LAYER_ETHERNET) return true;
    return kind != NO_GID && kind == kind_of(higher->gids[k]);
}

uint32_t rdt_verbs_pair_gids(const verbs_offer_rail_t *lower, const verbs_offer_rail_t *higher,
                             verbs_gid_pair_t *pairs)
{
    uint32_t num = 0;

    for (uint32_t sum = 0; sum + 1 < lower->num_gids + higher->num_gids; sum++)
        for (uint32_t i = 0; i <= sum && i < lower->num_gids; i++)
            if (sum - i < higher->num_gids && is_pair(lower, i, higher, sum - i))
                pairs[num++] = (verbs_gid_pair_t){(uint8_t)i, (uint8_t)(sum - i)};
    return num;
}

void rdt_verbs_gids_text(const verbs_offer_rail_t *offer, char *text, size_t bytes)
{
    static const char *const names[] = {
        [IPV4] = "IPv4", [LINK_LOCAL] = "link-local", [IPV6] = "IPv6"};
    size_t len = 0;

    snprintf(text, bytes, "no GID");
    for (uint32_t i = 0; i < offer->num_gids; i++) {
        const uint8_t *gid = offer->gids[i];
        kind_t kind = kind_of(gid);
        char address[INET6_ADDRSTRLEN];
        int more;

        if (kind == NO_GID) continue;
        if (kind == IPV4)
            inet_ntop(AF_INET, gid + 12, address, sizeof(address));
        else
            inet_ntop(AF_INET6, gid, address, sizeof(address));
        more =
            snprintf(text + len, bytes - len, "%s%s %s", len > 0 ? ", " : "", names[kind], address);
        if (len + (size_t)more + sizeof(" ...") > bytes) {
            snprintf(text + len, bytes - len, " ...");
            return;
        }
        len += (size_t)more;
    }
}
