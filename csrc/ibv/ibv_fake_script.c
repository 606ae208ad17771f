/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "ibv/ibv_fake_private.h"

typedef struct name {
    const char *text;
    uint32_t value;
} name_t;

/* clang-format off */
#define ERRNO(name) {#name, name}
#define WC(name) {#name, IBV_WC_##name}
#define EVENT(name) {#name, IBV_EVENT_##name}

static const name_t errnos[] = {
    ERRNO(EPERM), ERRNO(EIO), ERRNO(EAGAIN), ERRNO(ENOMEM), ERRNO(EACCES), ERRNO(EBUSY), ERRNO(ENODEV),
    ERRNO(EINVAL), ERRNO(ENOSYS), ERRNO(EOPNOTSUPP), ERRNO(ENETUNREACH), ERRNO(ETIMEDOUT),
    ERRNO(EHOSTUNREACH), {NULL, 4095}};
static const name_t statuses[] = {
    WC(SUCCESS), WC(LOC_LEN_ERR), WC(LOC_QP_OP_ERR), WC(LOC_EEC_OP_ERR), WC(LOC_PROT_ERR),
    WC(WR_FLUSH_ERR), WC(MW_BIND_ERR), WC(BAD_RESP_ERR), WC(LOC_ACCESS_ERR), WC(REM_INV_REQ_ERR),
    WC(REM_ACCESS_ERR), WC(REM_OP_ERR), WC(RETRY_EXC_ERR), WC(RNR_RETRY_EXC_ERR), WC(LOC_RDD_VIOL_ERR),
    WC(REM_INV_RD_REQ_ERR), WC(REM_ABORT_ERR), WC(INV_EECN_ERR), WC(INV_EEC_STATE_ERR), WC(FATAL_ERR),
    WC(RESP_TIMEOUT_ERR), WC(GENERAL_ERR), WC(TM_ERR), WC(TM_RNDV_INCOMPLETE),
    {NULL, IBV_WC_TM_RNDV_INCOMPLETE}};
static const name_t events[] = {
    EVENT(CQ_ERR), EVENT(QP_FATAL), EVENT(QP_REQ_ERR), EVENT(QP_ACCESS_ERR), EVENT(COMM_EST),
    EVENT(SQ_DRAINED), EVENT(PATH_MIG), EVENT(PATH_MIG_ERR), EVENT(DEVICE_FATAL), EVENT(PORT_ACTIVE),
    EVENT(PORT_ERR), EVENT(LID_CHANGE), EVENT(PKEY_CHANGE), EVENT(SM_CHANGE), EVENT(SRQ_ERR),
    EVENT(SRQ_LIMIT_REACHED), EVENT(QP_LAST_WQE_REACHED), EVENT(CLIENT_REREGISTER), EVENT(GID_CHANGE),
    EVENT(WQ_FATAL), {NULL, IBV_EVENT_WQ_FATAL}};
/* clang-format on */

/* What stands behind "key=": a number N; or, where there are names, a name, or a value up to that of
 * the last entry, and for rules "@N". */
typedef struct key {
    const char *text;
    const name_t *names;
    size_t field;    /* of the script, where it is no rule */
    uint32_t max;    /* of a number; for rules, of "@N" */
    int what;        /* a fake_what_t, or -1 */
    uint32_t always; /* the value of a rule that has none */
} script_key_t;

#define FIELD(key, field, names, max) {key, names, offsetof(fake_script_t, field), max, -1, 0}
#define COUNTED(key, what, value) {key, NULL, 0, UINT32_MAX, what, value}
#define PAIR(key, what, names, max) {key, names, 0, max, what, 0}

static const script_key_t keys[] = {
    COUNTED("post", FAKE_POST, ENOMEM),
    COUNTED("recv", FAKE_RECV, ENOMEM),
    PAIR("wc", FAKE_WC, statuses, UINT32_MAX),
    PAIR("rwc", FAKE_RWC, statuses, UINT32_MAX),
    COUNTED("reg", FAKE_REG, ENOMEM),
    COUNTED("overrun", FAKE_OVERRUN, 1),
    PAIR("event", FAKE_EVENT, events, UINT32_MAX),
    PAIR("rtr", FAKE_RTR, errnos, FAKE_NUM_GIDS - 1),
    PAIR("gid", FAKE_GID, errnos, FAKE_NUM_GIDS - 1),
    PAIR("ah", FAKE_AH, errnos, FAKE_NUM_GIDS - 1),
    FIELD("list", list, errnos, 0),
    FIELD("open", open, errnos, 0),
    FIELD("query", query, errnos, 0),
    FIELD("devices", devices, NULL, FAKE_NUM_DEVICES),
    FIELD("inline", inline_max, NULL, 220),
    FIELD("inline_grant", inline_grant, NULL, 220),
    FIELD("max_msg_sz", max_msg_sz, NULL, 1u << 31),
    FIELD("max_qp_wr", max_qp_wr, NULL, 1u << 15),
    FIELD("max_sge", max_sge, NULL, 30),
    FIELD("max_cqe", max_cqe, NULL, 1u << 22),
    FIELD("max_mr", max_mr, NULL, UINT32_MAX),
    FIELD("mtu", mtu, NULL, 4096),
    FIELD("lid", lid, NULL, 0xbfff),
    FIELD("state", state, NULL, IBV_PORT_ACTIVE_DEFER),
    FIELD("delay", delay, NULL, 1000),
    FIELD("seed", seed, NULL, UINT32_MAX),
    FIELD("iova2", iova2, NULL, 1),
    FIELD("dmabuf", dmabuf, NULL, 2),
    FIELD("fork", fork, NULL, 2),
};

static const script_key_t *find_key(const char *text, size_t len)
{
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (strlen(keys[i].text) == len && memcmp(keys[i].text, text, len) == 0) return &keys[i];
    return NULL;
}

/* The end of the number, or NULL. */
static const char *read_number(const char *text, uint32_t max, uint32_t *value_p)
{
    unsigned long long value;
    char *end;

    if (*text < '0' || *text > '9') return NULL;
    value = strtoull(text, &end, 10);
    *value_p = (uint32_t)value;
    return value <= max ? end : NULL;
}

static const char *read_name(const char *text, const name_t *names, uint32_t *value_p)
{
    size_t len = strcspn(text, "@;");

    for (; names->text != NULL; names++) {
        if (strlen(names->text) != len || memcmp(names->text, text, len) != 0) continue;
        *value_p = names->value;
        return text + len;
    }
    return read_number(text, names->value, value_p);
}

/* Reads "V", or "V@N" of a pair. */
static const char *read_value(const script_key_t *key, const char *text, fake_rule_t *rule)
{
    if (key->names == NULL) {
        rule->value = key->always;
        return read_number(text, key->max, &rule->at);
    }
    text = read_name(text, key->names, &rule->value);
    if (text == NULL || key->what < 0) return text;
    return *text == '@' ? read_number(text + 1, key->max, &rule->at) : NULL;
}

static bool keep(fake_script_t *script, const script_key_t *key, const fake_rule_t *rule)
{
    if (key->what < 0) {
        uint32_t value = key->names != NULL ? rule->value : rule->at;

        memcpy((char *)script + key->field, &value, sizeof(value));
        return true;
    }
    if (script->num_rules == FAKE_MAX_RULES) return false;
    script->rules[script->num_rules++] = *rule;
    return true;
}

/* The end of the item, or NULL. */
static const char *read_item(const char *text, fake_script_t *script)
{
    size_t len = strcspn(text, "=;");
    const script_key_t *key = find_key(text, len);
    fake_rule_t rule = {0};

    if (key == NULL || text[len] != '=') return NULL;
    rule.what = (fake_what_t)key->what;
    text = read_value(key, text + len + 1, &rule);
    if (text == NULL || (*text != ';' && *text != '\0')) return NULL;
    return keep(script, key, &rule) ? text : NULL;
}

static bool is_mtu(uint32_t bytes)
{
    return bytes >= 256 && (bytes & (bytes - 1)) == 0;
}

rdt_status_t rdt_ibv_fake_parse(const char *text, fake_script_t *script_p)
{
    fake_script_t script = {
        .devices = FAKE_NUM_DEVICES,
        .mtu = 4096,
        .state = IBV_PORT_ACTIVE,
        .seed = 1,
        .iova2 = 1,
        .inline_max = 220,
        .inline_grant = UINT32_MAX,
        .max_msg_sz = 1u << 30,
        .max_qp_wr = 1u << 14,
        .max_sge = 30,
        .max_cqe = 1u << 20,
        .max_mr = 1u << 20,
    };
    const char *at = text != NULL ? text : "", *end;

    while (*at != '\0') {
        end = read_item(at, &script);
        if (end == NULL || !is_mtu(script.mtu))
            return rdt_fail(RDT_BAD_ARG, "fake RDMA script \"%s\": not understood from \"%s\" on",
                            text, at);
        at = *end == ';' ? end + 1 : end;
    }
    *script_p = script;
    return RDT_OK;
}

uint32_t rdt_ibv_fake_rule(const fake_script_t *script, fake_what_t what, uint32_t at)
{
    for (uint32_t i = 0; i < script->num_rules; i++)
        if (script->rules[i].what == what && script->rules[i].at == at)
            return script->rules[i].value;
    return 0;
}
