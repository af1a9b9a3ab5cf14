#include "support/kvtuner_data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define STANDARD "KV8 K8V4 KV4 K4V2 KV2"

int kvtuner_pair_find(const char *name)
{
    for (int i = 0; i < 9; i++) {
        char text[KV_PAIR_NAME_CAP];
        kv_pair_name(kv_pairs_paper[i], text);
        if (!strcmp(text, name)) return i;
    }
    return -1;
}

void kvtuner_assignment(const struct kvtuner_case *c, uint8_t *assignment)
{
    for (int layer = 0; layer < c->n_layer; layer++) {
        int pair;
        assert_int_equal(kv_pair_set_count(c->candidates[layer]), 1);
        kv_pair_set_list(c->candidates[layer], kv_pairs_paper, 9, &pair);
        assignment[layer] = (uint8_t)pair;
    }
}

static kv_pair_set read_pairs(char *text)
{
    kv_pair_set set = 0;
    for (char *rest = NULL, *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        int pair = kvtuner_pair_find(word);
        if (pair < 0) fail_msg("'%s' is no pair", word);
        set |= (kv_pair_set)1 << pair;
    }
    return set;
}

/* Appends to out; returns how many are in it then. */
static int read_layers(char *text, int n_layer, int *out, int n)
{
    for (char *rest = NULL, *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        int first, last, used = 0;
        if (sscanf(word, "%d-%d%n", &first, &last, &used) != 2) {
            assert_int_equal(sscanf(word, "%d%n", &first, &used), 1);
            last = first;
        }
        if (word[used] || first < 0 || last < first || last >= n_layer) fail_msg("'%s' is no layer", word);
        for (int layer = first; layer <= last; layer++) {
            assert_true(n < 2 * KVTUNER_LAYERS_MAX);
            out[n++] = layer;
        }
    }
    return n;
}

static void set_candidates(struct kvtuner_case *c, char *layers, char *pairs)
{
    int list[2 * KVTUNER_LAYERS_MAX], n = read_layers(layers, c->n_layer, list, 0);
    kv_pair_set set = read_pairs(pairs);
    for (int i = 0; i < n; i++) c->candidates[list[i]] = set;
}

static void copy_text(char out[KVTUNER_TEXT_CAP], const char *text)
{
    size_t n = strlen(text);
    if (n >= KVTUNER_TEXT_CAP) fail_msg("'%s' is too long", text);
    memcpy(out, text, n + 1);
}

static void begin_case(struct kvtuner_data *data, const char *title)
{
    assert_true(data->n < KVTUNER_CASES_MAX);
    struct kvtuner_case *c = &data->cases[data->n++];
    c->groups = (struct kv_groups){ 0, c->begin, c->layer };
    copy_text(c->title, title);
}

static void set_layers(struct kvtuner_case *c, const char *text)
{
    char standard[] = STANDARD;
    kv_pair_set set = read_pairs(standard);
    c->n_layer = atoi(text);
    assert_in_range(c->n_layer, 1, KVTUNER_LAYERS_MAX);
    for (int layer = 0; layer < c->n_layer; layer++) c->candidates[layer] = set;
}

static void read_line(struct kvtuner_case *c, const char *key, char *text)
{
    char *colon = strchr(text, ':');
    if (!strcmp(key, "layers")) {
        set_layers(c, text);
    } else if (!strcmp(key, "candidates") && colon) {
        *colon = '\0';
        set_candidates(c, text, colon + 1);
    } else if (!strcmp(key, "group")) {
        int g = c->groups.n_groups++;
        c->begin[g + 1] = read_layers(text, c->n_layer, c->layer, c->begin[g]);
    } else if (!strcmp(key, "space")) {
        assert_int_equal(sscanf(text, "%lf", &c->space), 1);
    } else if (!strcmp(key, "bits")) {
        assert_int_equal(sscanf(text, "%lf %lf %lf", &c->bits, &c->key_bits, &c->value_bits), 3);
    } else if (!strcmp(key, "name")) {
        copy_text(c->name, text);
    } else if (!strcmp(key, "preset")) {
        copy_text(c->preset, text);
    } else if (!strcmp(key, "wrong")) {
        copy_text(c->wrong, text);
    } else {
        fail_msg("'%s %s'", key, text);
    }
}

struct kvtuner_data *kvtuner_data_read(const char *file)
{
    char path[256], line[512];
    snprintf(path, sizeof path, "tests/data/kvtuner/%s", file);
    FILE *in = fopen(path, "r");
    if (!in) fail_msg("%s cannot be read", path);
    struct kvtuner_data *data = calloc(1, sizeof *data);
    assert_non_null(data);
    while (fgets(line, sizeof line, in)) {
        line[strcspn(line, "\n")] = '\0';
        if (!line[0] || line[0] == '#') continue;
        char *blank = strchr(line, ' ');
        if (line[0] == '[') {
            line[strcspn(line, "]")] = '\0';
            begin_case(data, line + 1);
            continue;
        }
        if (!data->n || !blank) fail_msg("%s: '%s'", path, line);
        *blank = '\0';
        read_line(&data->cases[data->n - 1], line, blank + 1);
    }
    fclose(in);
    return data;
}
