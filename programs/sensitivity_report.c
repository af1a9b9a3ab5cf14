#include "sensitivity_report.h"

#include <langinfo.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "json.h"

#define N_BITS KVANT_SENSITIVITY_BITS

static const int bits[N_BITS] = {2, 3, 4, 8};

static const struct {
    const char *recipe, *exact;
} about_mode[KVANT_SENSITIVITY_MODES] = {
    [KVANT_SENSITIVITY_PER_TOKEN] = { "k<b>t v<b>", "nothing is exact" },
    [KVANT_SENSITIVITY_KIVI] = { "k<b>c32 v<b>g32", "exact: the last t mod 32 keys and the last 32 values "
                                                    "before the query, and its own" },
    [KVANT_SENSITIVITY_KVANT] = { "k<b>c64m v<b>h",
                                  "exact: the first 4 tokens and the last 32 to 95, sealed by 64" },
};

static const char grid[] = "float minimum, scale and minimum in float16";

/* -------------------------------------------------------------------------------------------- terminal -- */

/* Key and value bits, as indices into `bits`. */
struct pair {
    int key, value;
};

static const struct pair table_pairs[] = {{3, 2}, {2, 3}, {2, 2}, {2, 0}, {0, 2}, {0, 0}};
enum { N_TABLE_PAIRS = sizeof table_pairs / sizeof *table_pairs };

/* One row of the table, from a layer or from means over layers. */
static void print_row(const char *name, const struct kvant_sensitivity_errors *e, double entropy, double top8)
{
    printf("%5s  %7.4f %7.4f  %7.4f %7.4f  %8.1e %8.1e ", name, e->e_k[2], e->e_k[0], e->e_v[2], e->e_v[0],
           e->e_a[2], e->e_a[0]);
    for (int i = 0; i < N_TABLE_PAIRS; i++)
        printf(" %6.4f", e->e_o[table_pairs[i].key][table_pairs[i].value]);
    printf("  %7.3f %5.2f\n", entropy, top8);
}

static void add_errors(struct kvant_sensitivity_errors *sum, const struct kvant_sensitivity_errors *e,
                       double weight)
{
    for (int k = 0; k < N_BITS; k++) {
        sum->e_k[k] += weight * e->e_k[k];
        sum->e_v[k] += weight * e->e_v[k];
        sum->e_a[k] += weight * e->e_a[k];
        for (int v = 0; v < N_BITS; v++) sum->e_o[k][v] += weight * e->e_o[k][v];
    }
}

static void print_mode(const struct kvant_sensitivity *s, int mode)
{
    struct kvant_sensitivity_errors mean = {0};
    double entropy_mean = 0, top_mean = 0;
    printf("\n%s: %s; %s\n", kvant_sensitivity_mode_name(mode), about_mode[mode].recipe,
           about_mode[mode].exact);
    printf("of what queries read, %.0f %% of the keys and %.0f %% of the values are quantized\n",
           100 * s->quantized_keys[mode], 100 * s->quantized_values[mode]);
    printf("%5s  %15s  %15s  %17s  %s\n", "", "e_k", "e_v", "e_a", "e_o");
    printf("%5s  %7s %7s  %7s %7s  %8s %8s ", "layer", "k4", "k2", "v4", "v2", "k4", "k2");
    for (int i = 0; i < N_TABLE_PAIRS; i++)
        printf("   k%dv%d", bits[table_pairs[i].key], bits[table_pairs[i].value]);
    printf("  %7s %5s\n", "entropy", "top 8");
    for (int layer = 0; layer < s->n_layer; layer++) {
        const struct kvant_sensitivity_head *heads = s->heads + (size_t)layer * (size_t)s->n_head;
        double entropy = 0, top8 = 0;
        for (int h = 0; h < s->n_head; h++) {
            entropy += heads[h].entropy_relative / s->n_head;
            top8 += heads[h].top8 / s->n_head;
        }
        char name[16];
        snprintf(name, sizeof name, "%d", layer);
        print_row(name, &s->errors[mode][layer], entropy, top8);
        add_errors(&mean, &s->errors[mode][layer], 1.0 / s->n_layer);
        entropy_mean += entropy / s->n_layer;
        top_mean += top8 / s->n_layer;
    }
    print_row("mean", &mean, entropy_mean, top_mean);
}

/* Three shades per decade, '0' for .001 to '9' for 1. On a terminal five blocks, two shades each. */
static const char *shade(double e, bool blocks)
{
    static const char *const digits[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
    static const char *const shades[] = {" ", "░", "▒", "▓", "█"};
    if (!isfinite(e)) return "?";
    double step = e > 0 ? 9 + 3 * log10(e) : 0;
    int i = step <= 0 ? 0 : step >= 9 ? 9 : (int)(step + 0.5);
    return blocks ? shades[i / 2] : digits[i];
}

static void print_heat_map(const struct kvant_sensitivity *s)
{
    bool blocks = isatty(STDOUT_FILENO) && strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    printf("\ne_o of every pair, darker is worse: %s\n",
           blocks ? "' ' below .0032, ░ .015, ▒ .068, ▓ .32, █ above"
                  : "0 is .001 and less, 3 .01, 6 .1, 9 .7 and more");
    printf("%7s", "");
    for (int mode = 0; mode < KVANT_SENSITIVITY_MODES; mode++)
        if (s->errors[mode]) printf("  %-19s", kvant_sensitivity_mode_name(mode));
    for (int row = 0; row < 2; row++) {
        printf("\n%7s", row ? "v bits" : "k bits");
        for (int mode = 0; mode < KVANT_SENSITIVITY_MODES; mode++) {
            if (!s->errors[mode]) continue;
            printf(" ");
            for (int i = 0; i < N_BITS * N_BITS; i++)
                printf("%s%d", i % N_BITS ? "" : " ", bits[row ? i % N_BITS : i / N_BITS]);
        }
    }
    for (int layer = 0; layer < s->n_layer; layer++) {
        printf("\n%7d", layer);
        for (int mode = 0; mode < KVANT_SENSITIVITY_MODES; mode++) {
            if (!s->errors[mode]) continue;
            printf(" ");
            for (int i = 0; i < N_BITS * N_BITS; i++)
                printf("%s%s", i % N_BITS ? "" : " ",
                       shade(s->errors[mode][layer].e_o[i / N_BITS][i % N_BITS], blocks));
        }
    }
    puts("");
}

/* What the eight most important key channels of a head have of its importance: uniform channels have 8 /
 * head_dim. */
static void print_channels(const struct kvant_sensitivity *s)
{
    printf("\nshare of the 8 most important of %d key channels, by KV head\n", s->head_dim);
    for (int layer = 0; layer < s->n_layer; layer++) {
        printf("%5d ", layer);
        for (int h = 0; h < s->n_head_kv; h++) {
            const double *w = s->importance +
                              ((size_t)layer * (size_t)s->n_head_kv + (size_t)h) * (size_t)s->head_dim;
            double top[8] = {0}, sum = 0, sum_top = 0;
            for (int c = 0; c < s->head_dim; c++) {
                sum += w[c];
                int i = 8;
                for (; i > 0 && top[i - 1] < w[c]; i--)
                    if (i < 8) top[i] = top[i - 1];
                if (i < 8) top[i] = w[c];
            }
            for (int i = 0; i < 8; i++) sum_top += top[i];
            printf(" %5.2f", sum > 0 ? sum_top / sum : 0.0);
        }
        puts("");
    }
}

static void print_kld(const struct sensitivity_report *r)
{
    const struct kvant_sensitivity *s = r->result;
    printf("\nKLD at the logits with one layer so and all else in 16 bits, %lld tokens\n%5s",
           (long long)s->n_kld_tokens, "layer");
    for (int i = 0; i < s->n_kld; i++) printf(" %14s", r->kld->items[i]);
    for (int layer = 0; layer < s->n_layer; layer++) {
        printf("\n%5d", layer);
        for (int i = 0; i < s->n_kld; i++) printf(" %14.6f", s->kld[layer * s->n_kld + i]);
    }
    puts("");
}

int sensitivity_print(const struct sensitivity_report *r)
{
    const struct kvant_sensitivity *s = r->result;
    int n_answered = 0;
    for (int i = 0; i < s->n_prompts; i++) n_answered += s->prompts[i].n_queries > 0;
    printf("%d prompts of %s, %d answered: %lld tokens with answers of at most %d, %lld queries; in %.2f s\n",
           s->n_prompts, r->source, n_answered, (long long)s->n_tokens, s->n_predict, (long long)s->n_queries,
           r->seconds);
    printf("grid: %s; reference: the 16-bit cache; no error is handed on to other layers\n", grid);
    for (int mode = 0; mode < KVANT_SENSITIVITY_MODES; mode++)
        if (s->errors[mode]) print_mode(s, mode);
    print_heat_map(s);
    if (s->importance) print_channels(s);
    if (s->kld) print_kld(r);
    return finish_output();
}

/* ------------------------------------------------------------------------------------------------ JSON -- */

static json_t *numbers(const double *x, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_number(x[i]));
    return list;
}

static json_t *matrix(const double *x, int n_rows, int n_columns)
{
    json_t *list = json_array();
    for (int i = 0; i < n_rows; i++)
        json_array_append_new(list, numbers(x + (size_t)i * (size_t)n_columns, n_columns));
    return list;
}

static json_t *mode_json(const struct kvant_sensitivity *s, int mode)
{
    json_t *layers = json_array();
    for (int layer = 0; layer < s->n_layer; layer++) {
        const struct kvant_sensitivity_errors *e = &s->errors[mode][layer];
        json_t *heads = json_array();
        for (int h = 0; h < s->n_head; h++) {
            const struct kvant_sensitivity_head_errors *x = &s->head_errors[mode][layer * s->n_head + h];
            json_array_append_new(heads, json_pack("{s:o, s:o}", "e_a", numbers(x->e_a, N_BITS), "e_o",
                                                   matrix(x->e_o[0], N_BITS, N_BITS)));
        }
        json_array_append_new(layers,
                              json_pack("{s:o, s:o, s:o, s:o, s:I, s:o}", "e_k", numbers(e->e_k, N_BITS),
                                        "e_v", numbers(e->e_v, N_BITS), "e_a", numbers(e->e_a, N_BITS), "e_o",
                                        matrix(e->e_o[0], N_BITS, N_BITS), "skipped",
                                        (json_int_t)e->n_skipped, "heads", heads));
    }
    return json_pack("{s:s, s:s, s:o, s:o, s:o}", "recipe", about_mode[mode].recipe, "exact",
                     about_mode[mode].exact, "quantized_keys", json_number(s->quantized_keys[mode]),
                     "quantized_values", json_number(s->quantized_values[mode]), "layers", layers);
}

static json_t *heads_json(const struct kvant_sensitivity *s)
{
    json_t *layers = json_array();
    for (int layer = 0; layer < s->n_layer; layer++) {
        json_t *heads = json_array();
        for (int h = 0; h < s->n_head; h++) {
            const struct kvant_sensitivity_head *x = &s->heads[layer * s->n_head + h];
            json_array_append_new(heads, json_pack("{s:o, s:o, s:o}", "entropy", json_number(x->entropy),
                                                   "entropy_relative", json_number(x->entropy_relative),
                                                   "top8", json_number(x->top8)));
        }
        json_array_append_new(layers, heads);
    }
    return layers;
}

static json_t *importance_json(const struct kvant_sensitivity *s)
{
    if (!s->importance) return json_null();
    json_t *layers = json_array();
    for (int layer = 0; layer < s->n_layer; layer++)
        json_array_append_new(
            layers, matrix(s->importance + (size_t)layer * (size_t)s->n_head_kv * (size_t)s->head_dim,
                           s->n_head_kv, s->head_dim));
    return layers;
}

static json_t *kld_json(const struct sensitivity_report *r)
{
    const struct kvant_sensitivity *s = r->result;
    if (!s->kld) return json_null();
    json_t *recipes = json_array();
    for (int i = 0; i < s->n_kld; i++) json_array_append_new(recipes, json_string(r->kld->items[i]));
    return json_pack("{s:o, s:I, s:o}", "recipes", recipes, "tokens", (json_int_t)s->n_kld_tokens, "layers",
                     matrix(s->kld, s->n_layer, s->n_kld));
}

int sensitivity_print_json(const struct sensitivity_report *r)
{
    const struct kvant_sensitivity *s = r->result;
    json_t *prompts = json_array(), *modes = json_object(), *bits_list = json_array();
    for (int i = 0; i < s->n_prompts; i++)
        json_array_append_new(prompts, json_pack("{s:I, s:I}", "tokens", (json_int_t)s->prompts[i].n_prompt,
                                                 "queries", (json_int_t)s->prompts[i].n_queries));
    for (int i = 0; i < N_BITS; i++) json_array_append_new(bits_list, json_integer(bits[i]));
    for (int mode = 0; mode < KVANT_SENSITIVITY_MODES; mode++)
        if (s->errors[mode])
            json_object_set_new(modes, kvant_sensitivity_mode_name(mode), mode_json(s, mode));
    return json_finish(json_pack(
        "{s:s, s:s, s:i, s:o, s:I, s:I, s:s, s:s, s:s, s:o, s:i, s:i, s:i, s:i, s:o, s:o, s:o, s:o, s:o}",
        "model", r->model_path, "source", r->source, "n_predict", s->n_predict, "prompts", prompts, "tokens",
        (json_int_t)s->n_tokens, "queries", (json_int_t)s->n_queries, "grid", grid, "reference",
        "16-bit cache", "unit", "token row of one head", "bits", bits_list, "layers", s->n_layer,
        "query_heads", s->n_head, "kv_heads", s->n_head_kv, "head_dim", s->head_dim, "modes", modes,
        "attention", heads_json(s), "importance", importance_json(s), "kld", kld_json(r), "seconds",
        json_number(r->seconds)));
}

/* ------------------------------------------------------------------------------------------------- CSV -- */

/* -1: does not apply. */
struct place {
    const char *mode;
    int layer, head, key_bits, value_bits, channel;
};

static void csv_index(FILE *out, int index)
{
    if (index >= 0) fprintf(out, "%d", index);
    fputc(',', out);
}

static void csv_line(FILE *out, const char *quantity, struct place at, double value)
{
    fprintf(out, "%s,%s,", quantity, at.mode);
    csv_index(out, at.layer);
    csv_index(out, at.head);
    csv_index(out, at.key_bits);
    csv_index(out, at.value_bits);
    csv_index(out, at.channel);
    if (isfinite(value)) fprintf(out, "%.9g", value);
    fputc('\n', out);
}

static void csv_attention_errors(FILE *out, struct place at, const double e_a[N_BITS], double e_o[][N_BITS])
{
    for (int k = 0; k < N_BITS; k++) {
        at.key_bits = bits[k];
        at.value_bits = -1;
        csv_line(out, "e_a", at, e_a[k]);
        for (int v = 0; v < N_BITS; v++) {
            at.value_bits = bits[v];
            csv_line(out, "e_o", at, e_o[k][v]);
        }
    }
}

static void csv_mode(FILE *out, const struct kvant_sensitivity *s, int mode)
{
    const char *name = kvant_sensitivity_mode_name(mode);
    for (int layer = 0; layer < s->n_layer; layer++) {
        struct kvant_sensitivity_errors e = s->errors[mode][layer];
        for (int i = 0; i < N_BITS; i++) {
            csv_line(out, "e_k", (struct place){name, layer, -1, bits[i], -1, -1}, e.e_k[i]);
            csv_line(out, "e_v", (struct place){name, layer, -1, -1, bits[i], -1}, e.e_v[i]);
        }
        csv_attention_errors(out, (struct place){name, layer, -1, -1, -1, -1}, e.e_a, e.e_o);
        for (int h = 0; h < s->n_head; h++) {
            struct kvant_sensitivity_head_errors x = s->head_errors[mode][layer * s->n_head + h];
            csv_attention_errors(out, (struct place){name, layer, h, -1, -1, -1}, x.e_a, x.e_o);
        }
    }
}

static void csv_all(FILE *out, const struct kvant_sensitivity *s)
{
    fputs("quantity,mode,layer,head,key_bits,value_bits,channel,value\n", out);
    for (int mode = 0; mode < KVANT_SENSITIVITY_MODES; mode++)
        if (s->errors[mode]) csv_mode(out, s, mode);
    for (int layer = 0; layer < s->n_layer; layer++) {
        for (int h = 0; h < s->n_head; h++) {
            const struct kvant_sensitivity_head *x = &s->heads[layer * s->n_head + h];
            struct place at = {"", layer, h, -1, -1, -1};
            csv_line(out, "entropy", at, x->entropy);
            csv_line(out, "entropy_relative", at, x->entropy_relative);
            csv_line(out, "top8", at, x->top8);
        }
        for (int i = 0; s->importance && i < s->n_head_kv * s->head_dim; i++)
            csv_line(out, "importance", (struct place){"", layer, i / s->head_dim, -1, -1, i % s->head_dim},
                     s->importance[layer * s->n_head_kv * s->head_dim + i]);
    }
}

int sensitivity_write_csv(const struct sensitivity_report *r, const char *path)
{
    struct output_file file;
    if (!output_open(&file, path)) return EXIT_FAILED;
    csv_all(file.stream, r->result);
    const struct kvant_sensitivity *s = r->result;
    for (int i = 0; i < s->n_layer * s->n_kld; i++) /* a recipe stands where others have their mode */
        csv_line(file.stream, "kld",
                 (struct place){ r->kld->items[i % s->n_kld], i / s->n_kld, -1, -1, -1, -1 }, s->kld[i]);
    return output_commit(&file) ? EXIT_OK : EXIT_FAILED;
}
