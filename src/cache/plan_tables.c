/*
 * The two tables of a calibrated plan as base64 (RFC 4648), read with every byte checked.
 *
 *   center:    float16, little-endian, (layers, kv_heads, head_dim)
 *   channels:  per (layer, KV head): head_dim bytes of order, then 5 bytes: channels / 8 in the classes of
 *              8 4 3 2 0 bits; all zero where a head has no classes
 */
#include <string.h>

#include "base/memory.h"
#include "cache/plan_text.h"

#define LINE_CHARS 96 /* multiple of 4 */

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Characters are collected into lines of an indented block scalar. */
struct writer {
    struct kv_text *text;
    uint32_t bits;
    int n_bytes;  /* in `bits`, 0..2                  */
    int n_column; /* characters in the current line   */
};

static void put_group(struct writer *w, int n_bytes)
{
    if (w->n_column == 0) kv_text_add_bytes(w->text, "  ", 2);
    char group[4];
    for (int i = 0; i < 4; i++) group[i] = i <= n_bytes ? alphabet[w->bits >> (18 - 6 * i) & 63] : '=';
    kv_text_add_bytes(w->text, group, 4);
    w->bits = 0;
    w->n_bytes = 0;
    w->n_column += 4;
    if (w->n_column == LINE_CHARS) {
        kv_text_add_bytes(w->text, "\n", 1);
        w->n_column = 0;
    }
}

static void put_byte(struct writer *w, unsigned byte)
{
    w->bits |= (uint32_t)byte << (16 - 8 * w->n_bytes);
    if (++w->n_bytes == 3) put_group(w, 3);
}

static void put_end(struct writer *w)
{
    if (w->n_bytes) put_group(w, w->n_bytes);
    if (w->n_column) kv_text_add_bytes(w->text, "\n", 1);
}

static size_t n_heads(const struct kvant_plan *plan)
{
    return (size_t)plan->n_layer * (size_t)plan->n_head_kv;
}

void kv_plan_write_center(struct kv_text *t, const struct kvant_plan *plan)
{
    struct writer w = { t, 0, 0, 0 };
    kv_text_add(t, "center: |\n");
    for (size_t i = 0; i < n_heads(plan) * (size_t)plan->head_dim; i++) {
        put_byte(&w, plan->center[i] & 0xffu);
        put_byte(&w, plan->center[i] >> 8);
    }
    put_end(&w);
}

void kv_plan_write_channels(struct kv_text *t, const struct kvant_plan *plan)
{
    struct writer w = { t, 0, 0, 0 };
    kv_text_add(t, "channels: |\n");
    for (size_t i = 0; i < n_heads(plan); i++) {
        const struct kv_channels *c = &plan->channels[i];
        for (int k = 0; k < plan->head_dim; k++) put_byte(&w, c->order[k]);
        for (int k = 0; k < KV_N_CLASSES; k++) put_byte(&w, (unsigned)c->count[k] / 8);
    }
    put_end(&w);
}

/* ------------------------------------------------------------------------------------------------ read -- */

static int digit_value(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes exactly n_wanted bytes. Padding stands only at the end, its unused bits are zero. */
static kvant_status decode(const char *text, size_t n_bytes, struct kv_text_place place, const char *what,
                           uint8_t *out, size_t n_wanted, struct kvant_error *err)
{
    size_t n = 0, n_digits = 0, n_padding = 0;
    uint32_t bits = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        char c = text[i];
        if (c == '\n') place.line += place.line > 0;
        if (c == '\n' || c == '\r' || c == ' ' || c == '\t') continue;
        if (c == '=') {
            n_padding++;
            continue;
        }
        int value = digit_value(c);
        if (value < 0)
            return kv_text_refuse(err, place, "%s: byte 0x%02x is not base64", what,
                                  (unsigned)(unsigned char)c);
        if (n_padding) return kv_text_refuse(err, place, "%s: base64 goes on after its padding", what);
        bits = bits << 6 | (uint32_t)value;
        n_digits++;
        if (n_digits % 4 == 1) continue; /* 6 bits: no whole byte yet */
        unsigned spare = n_digits % 4 == 2 ? 4 : n_digits % 4 == 3 ? 2 : 0;
        if (n == n_wanted)
            return kv_text_refuse(err, place, "%s: more than the %zu bytes that this model's table has", what,
                                  n_wanted);
        out[n++] = (uint8_t)(bits >> spare);
        bits &= (1u << spare) - 1;
    }
    if (n != n_wanted)
        return kv_text_refuse(err, place, "%s: %zu bytes, but this model's table has %zu", what, n, n_wanted);
    if (n_padding != (4 - n_digits % 4) % 4 || n_digits % 4 == 1 || bits != 0)
        return kv_text_refuse(err, place, "%s: the base64 text does not end as it should (padding)", what);
    return KVANT_OK;
}

kvant_status kv_plan_read_center(struct kvant_plan *plan, const char *text, size_t n_bytes,
                                 struct kv_text_place place, struct kvant_error *err)
{
    size_t n = n_heads(plan) * (size_t)plan->head_dim;
    uint8_t *raw = kv_alloc(n, 2);
    plan->center = kv_alloc(n, sizeof *plan->center);
    if (!raw || !plan->center) {
        kv_free(raw);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the plan's centres (%zu bytes)", 2 * n);
    }
    kvant_status status = decode(text, n_bytes, place, "center", raw, 2 * n, err);
    for (size_t i = 0; status == KVANT_OK && i < n; i++) {
        plan->center[i] = (uint16_t)(raw[2 * i] | raw[2 * i + 1] << 8);
        if ((plan->center[i] & 0x7c00u) == 0x7c00u)
            status = kv_text_refuse(err, place, "center: value %zu is not finite", i);
    }
    kv_free(raw);
    return status;
}

const char *kv_channels_problem(const struct kv_channels *c, int head_dim)
{
    int sum = 0;
    for (int k = 0; k < KV_N_CLASSES; k++) {
        if (c->count[k] % 8) return "a class is not a multiple of 8 channels";
        sum += c->count[k];
    }
    if (sum != head_dim) return "the classes do not add up to the head size";
    bool seen[KV_HEAD_DIM_MAX] = { false };
    for (int i = 0; i < head_dim; i++) {
        if (c->order[i] >= head_dim) return "the order names a channel beyond the head";
        if (seen[c->order[i]]) return "the order names a channel twice";
        seen[c->order[i]] = true;
    }
    return NULL;
}

bool kv_channels_empty(const struct kv_channels *c)
{
    for (int k = 0; k < KV_N_CLASSES; k++)
        if (c->count[k]) return false;
    return true;
}

kvant_status kv_plan_read_channels(struct kvant_plan *plan, const char *text, size_t n_bytes,
                                   struct kv_text_place place, struct kvant_error *err)
{
    size_t n_row = (size_t)plan->head_dim + KV_N_CLASSES;
    uint8_t *raw = kv_alloc(n_heads(plan), n_row);
    plan->channels = kv_alloc(n_heads(plan), sizeof *plan->channels);
    if (!raw || !plan->channels) {
        kv_free(raw);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the plan's channel classes (%zu bytes)",
                n_heads(plan) * n_row);
    }
    kvant_status status = decode(text, n_bytes, place, "channels", raw, n_heads(plan) * n_row, err);
    for (size_t i = 0; status == KVANT_OK && i < n_heads(plan); i++) {
        const uint8_t *row = raw + i * n_row;
        struct kv_channels *c = &plan->channels[i];
        memcpy(c->order, row, (size_t)plan->head_dim);
        bool zero = true;
        for (size_t k = 0; k < n_row; k++) zero &= row[k] == 0;
        for (int k = 0; k < KV_N_CLASSES; k++) c->count[k] = (uint16_t)(8 * row[plan->head_dim + k]);
        const char *problem = zero ? NULL : kv_channels_problem(c, plan->head_dim);
        if (problem)
            status = kv_text_refuse(err, place, "channels: layer %zu, KV head %zu: %s",
                                    i / (size_t)plan->n_head_kv, i % (size_t)plan->n_head_kv, problem);
    }
    kv_free(raw);
    return status;
}
