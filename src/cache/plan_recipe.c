/*
 * One recipe as text: "k4c64 v3h". The grammar is specified in docs/format-plan.md, section 2.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cache/plan_text.h"

/* A recipe without letters asks for the best known one of its bits (design: measured KLDs on two models). */
static const struct {
    uint8_t bits, scheme;
    bool centered;
} recommended_keys[] = {
    { 8, KV_KEY_TOKEN, true }, { 4, KV_KEY_C64, false },    { 3, KV_KEY_C64, false },
    { 2, KV_KEY_C32, false },  { 16, KV_KEY_TOKEN, false },
};
static bool recommended_value_rotated(int bits)
{
    return bits < 8;
}

/* Cache types of llama.cpp. Those without a recipe are named, so that the message can say what to use. */
static const struct { const char *name, *recipe, *refusal; } aliases[] = {
    { "f16", "k16v16", NULL },
    { "q8_0", "k8v8", NULL },
    { "q4_0", "k4v4", NULL },
    { "q4_1", "k4v4", NULL },
    { "f32", NULL, "exact entries are stored as f16; write f16" },
    { "bf16", NULL, "exact entries are stored as f16; write f16" },
    { "q5_0", NULL, "there are no 5-bit codes; write k4v4 or k8v8, or mixed keys of 5 bits as in k5c64xv4h" },
    { "q5_1", NULL, "there are no 5-bit codes; write k4v4 or k8v8, or mixed keys of 5 bits as in k5c64xv4h" },
    { "iq4_nl", NULL, "there is no such table of 4-bit codes; write k4v4" },
};

kvant_status kv_text_refuse(struct kvant_error *err, struct kv_text_place place, const char *format, ...)
{
    char message[KVANT_ERROR_CAP - 64];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (place.line > 0)
        KV_FAIL(err, KVANT_ERR_FORMAT, place.line, "line %lld, column %lld: %s", (long long)place.line,
                (long long)place.column, message);
    KV_FAIL(err, KVANT_ERR_FORMAT, place.column, "column %lld: %s", (long long)place.column, message);
}

bool kv_text_int(const char *text, size_t n_bytes, int max, int *out)
{
    if (n_bytes == 0 || n_bytes > 9) return false;
    int value = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        value = 10 * value + (text[i] - '0');
    }
    if (value > max) return false;
    *out = value;
    return true;
}

struct scan {
    const char *text;
    size_t n, i;
    struct kv_text_place place;
    struct kvant_error *err;
};

static struct kv_text_place place_at(const struct scan *s, size_t i)
{
    return (struct kv_text_place){ s->place.line, s->place.column + (int64_t)i };
}

static void skip_blanks(struct scan *s)
{
    while (s->i < s->n && (s->text[s->i] == ' ' || s->text[s->i] == '\t')) s->i++;
}

static bool take(struct scan *s, const char *word)
{
    size_t n = strlen(word);
    if (s->n - s->i < n || memcmp(s->text + s->i, word, n) != 0) return false;
    s->i += n;
    return true;
}

/* Digits with an optional .25 .5 .75, in quarters. */
static bool take_quarters(struct scan *s, int *quarters)
{
    size_t first = s->i;
    while (s->i < s->n && isdigit((unsigned char)s->text[s->i])) s->i++;
    int whole;
    if (!kv_text_int(s->text + first, s->i - first, 99, &whole)) return false;
    *quarters = 4 * whole;
    if (s->i == s->n || s->text[s->i] != '.') return true;
    if (take(s, ".25")) *quarters += 1;
    else if (take(s, ".75")) *quarters += 3;
    else if (take(s, ".5")) *quarters += 2;
    else return false;
    return true;
}

static bool plain_bits(int quarters)
{
    return quarters == 8 || quarters == 12 || quarters == 16 || quarters == 32 || quarters == 64;
}

static kvant_status parse_key(struct scan *s, struct kv_recipe *r, bool *lettered)
{
    if (!take(s, "k"))
        return kv_text_refuse(s->err, place_at(s, s->i),
                              "a recipe begins with k and the key's bits, as in k4c64 v3h");
    size_t bits_at = s->i;
    int quarters;
    if (!take_quarters(s, &quarters))
        return kv_text_refuse(s->err, place_at(s, bits_at),
                              "key bits: 2, 3, 4, 8 or 16 (mixed keys, x: 1 to 8 in steps of .25)");
    size_t letters_at = s->i;
    if (take(s, "c32")) r->key_scheme = KV_KEY_C32;
    else if (take(s, "c64")) r->key_scheme = KV_KEY_C64;
    else (void)take(s, "t");
    r->key_mixed = take(s, "x");
    r->key_centered = take(s, "m");
    r->key_rotated = take(s, "h");
    r->key_short = take(s, "s");
    *lettered = s->i != letters_at;

    if (r->key_mixed) {
        if (quarters < 4 || quarters > 32)
            return kv_text_refuse(s->err, place_at(s, bits_at),
                                  "mixed keys (x) average 1 to 8 bits in steps of .25");
        if (r->key_scheme == KV_KEY_TOKEN)
            return kv_text_refuse(s->err, place_at(s, letters_at),
                                  "mixed keys (x) are per channel: write c32x or c64x");
        if (r->key_rotated)
            return kv_text_refuse(s->err, place_at(s, letters_at),
                                  "mixed keys (x) cannot be rotated (h): leave out one of them");
        r->key_quarters = (uint8_t)quarters;
        return KVANT_OK;
    }
    if (!plain_bits(quarters))
        return kv_text_refuse(s->err, place_at(s, bits_at),
                              "key bits: 2, 3, 4, 8 or 16; other averages (1 to 8 in steps of .25) need "
                              "mixed channels, as in k2.5c64x");
    r->key_bits = (uint8_t)(quarters / 4);
    if (r->key_bits == 16 && (r->key_scheme || r->key_centered || r->key_rotated || r->key_short))
        return kv_text_refuse(s->err, place_at(s, letters_at),
                              "16-bit keys are stored as they are: no c32, c64, m, h or s");
    return KVANT_OK;
}

static kvant_status parse_value(struct scan *s, struct kv_recipe *r, bool *lettered)
{
    if (!take(s, "v"))
        return kv_text_refuse(
            s->err, place_at(s, s->i), "%s",
            s->i == s->n
                ? "the value's bits are missing, as in k4c64 v3h"
                : "expected v and the value's bits (key letters stand in the order t|c32|c64, x, m, h, s)");
    size_t bits_at = s->i;
    int quarters;
    if (!take_quarters(s, &quarters) || !plain_bits(quarters))
        return kv_text_refuse(s->err, place_at(s, bits_at), "value bits: 2, 3, 4, 8 or 16");
    r->value_bits = (uint8_t)(quarters / 4);
    size_t letters_at = s->i;
    if (take(s, "g32")) r->value_group = 32;
    r->value_rotated = take(s, "h");
    r->value_short = take(s, "s");
    *lettered = s->i != letters_at;
    if (r->value_bits == 16 && *lettered)
        return kv_text_refuse(s->err, place_at(s, letters_at),
                              "16-bit values are stored as they are: no g32, h or s");
    return KVANT_OK;
}

/* A key's scheme is never guessed to be the weak one: without letters it is the recommended one. A value
 * without letters is plain beside a lettered key ("k4tv4" is literal), recommended otherwise. */
static void recommend(struct kv_recipe *r, bool key_lettered, bool value_lettered)
{
    if (key_lettered) return;
    for (size_t i = 0; i < sizeof recommended_keys / sizeof recommended_keys[0]; i++) {
        if (recommended_keys[i].bits != r->key_bits) continue;
        r->key_scheme = recommended_keys[i].scheme;
        r->key_centered = recommended_keys[i].centered;
    }
    if (!value_lettered) r->value_rotated = recommended_value_rotated(r->value_bits);
}

static kvant_status parse_alias(struct scan *s, struct kv_recipe *out)
{
    size_t first = s->i;
    while (s->i < s->n && (isalnum((unsigned char)s->text[s->i]) || s->text[s->i] == '_')) s->i++;
    for (size_t i = 0; i < sizeof aliases / sizeof aliases[0]; i++) {
        if (strlen(aliases[i].name) != s->i - first || memcmp(aliases[i].name, s->text + first, s->i - first))
            continue;
        if (aliases[i].refusal)
            return kv_text_refuse(s->err, place_at(s, first), "%s: %s", aliases[i].name, aliases[i].refusal);
        return kv_recipe_parse_at(out, aliases[i].recipe, strlen(aliases[i].recipe), place_at(s, first),
                                  s->err);
    }
    return kv_text_refuse(s->err, place_at(s, first),
                          "not a recipe: write one as in k4c64 v3h, k8v8, f16 or q8_0");
}

kvant_status kv_recipe_parse_at(struct kv_recipe *out, const char *text, size_t n_bytes,
                                struct kv_text_place place, struct kvant_error *err)
{
    struct scan s = { text, n_bytes, 0, place, err };
    struct kv_recipe r = { 0 };
    skip_blanks(&s);
    if (s.i < s.n && s.text[s.i] == 'k') {
        bool key_lettered = false, value_lettered = false;
        KV_TRY(parse_key(&s, &r, &key_lettered));
        skip_blanks(&s);
        KV_TRY(parse_value(&s, &r, &value_lettered));
        recommend(&r, key_lettered, value_lettered);
    } else {
        KV_TRY(parse_alias(&s, &r));
    }
    skip_blanks(&s);
    if (s.i < s.n)
        return kv_text_refuse(err, place_at(&s, s.i),
                              "nothing may follow a recipe (value letters stand in the order g32, h, s)");
    *out = r;
    return KVANT_OK;
}

kvant_status kv_recipe_parse(struct kv_recipe *out, const char *text, size_t n_bytes, struct kvant_error *err)
{
    return kv_recipe_parse_at(out, text, n_bytes, (struct kv_text_place){ 0, 1 }, err);
}

kvant_status kv_layer_range_parse(const char *text, size_t n_bytes, struct kv_text_place place, int n_layer,
                                  int *first, int *last, struct kvant_error *err)
{
    while (n_bytes && (text[n_bytes - 1] == ' ' || text[n_bytes - 1] == '\t')) n_bytes--;
    const char *dash = memchr(text, '-', n_bytes);
    size_t n_first = dash ? (size_t)(dash - text) : n_bytes;
    bool ok = kv_text_int(text, n_first, 999999999, first);
    if (ok && dash) ok = kv_text_int(dash + 1, n_bytes - n_first - 1, 999999999, last);
    if (ok && !dash) *last = *first;
    if (!ok)
        return kv_text_refuse(err, place, "layers: a number or a range such as 0-3, from 0 to %d",
                              n_layer - 1);
    if (*first > *last)
        return kv_text_refuse(err, place, "layers %d-%d: the first is above the last", *first, *last);
    if (*last >= n_layer)
        return kv_text_refuse(err, place, "layer %d: the model has layers 0 to %d", *last, n_layer - 1);
    return KVANT_OK;
}

double kv_recipe_key_bits(const struct kv_recipe *r)
{
    return r->key_mixed ? r->key_quarters / 4.0 : r->key_bits;
}

void kv_recipe_print(const struct kv_recipe *r, char *text, size_t cap)
{
    static const char *const fraction[] = { "", ".25", ".5", ".75" };
    int quarters = r->key_mixed ? r->key_quarters : 4 * r->key_bits;
    /* Plain values of few bits beside 16-bit keys: t, which says nothing about such keys, marks the recipe as
     * literal. */
    bool plain_value = !r->value_rotated && !r->value_group && !r->value_short;
    bool mark = r->key_bits == 16 && plain_value && recommended_value_rotated(r->value_bits);
    const char *scheme = r->key_scheme == KV_KEY_C64   ? "c64"
                         : r->key_scheme == KV_KEY_C32 ? "c32"
                         : r->key_bits != 16 || mark   ? "t"
                                                       : "";
    snprintf(text, cap, "k%d%s%s%s%s%s%s v%d%s%s%s", quarters / 4, fraction[quarters % 4], scheme,
             r->key_mixed ? "x" : "", r->key_centered ? "m" : "", r->key_rotated ? "h" : "",
             r->key_short ? "s" : "", r->value_bits, r->value_group ? "g32" : "", r->value_rotated ? "h" : "",
             r->value_short ? "s" : "");
}

struct kv_recipe kv_preset_recipe(enum kv_preset_mode mode, int key_bits, int value_bits)
{
    bool kivi = mode == KV_PRESET_KIVI;
    return (struct kv_recipe){
        .key_bits = (uint8_t)key_bits,
        .key_scheme = kivi && key_bits != 16 ? KV_KEY_C32 : KV_KEY_TOKEN,
        .value_bits = (uint8_t)value_bits,
        .value_group = kivi && value_bits != 16 ? 32 : 0,
    };
}
