/* The page: first what was found, then why, then how; sections for which there is nothing are left out. */
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "html.h"
#include "program.h"
#include "report_parts.h"

/* --------------------------------------------------------------------------------------------- head ----- */

static void write_head(const struct report *r, FILE *out)
{
    fputs(
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'\">\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        "<meta name='color-scheme' content='light dark'>\n<meta name='referrer' content='no-referrer'>\n"
        "<title>KV cache plans for ",
        out);
    html_text(out, r->model.name);
    fputs("</title>\n<style>\n", out);
    for (size_t i = 0; report_style[i]; i++) fputs(report_style[i], out);
    fputs("</style>\n</head>\n<body>\n<header>\n<p class='kicker'>KV cache plans</p>\n<h1>", out);
    html_text(out, r->model.name);
    fputs("</h1>\n<p class='by'>", out);
    if (r->model.architecture) {
        html_text(out, r->model.architecture);
        fputs(", ", out);
    }
    fprintf(out, "%lld layers, %lld KV heads", (long long)r->model.n_layer, (long long)r->model.n_head_kv);
    if (!isnan(r->model.head_dim)) fprintf(out, " of %.0f", r->model.head_dim);
    if (r->tool) {
        fputs(" \xC2\xB7 <span class='together'>", out);
        html_text(out, r->tool);
        fputs("</span>", out);
    }
    if (r->made) {
        int year, month, day, hour, minute;
        fputs(" \xC2\xB7 <span class='together'>", out);
        if (sscanf(r->made, "%4d-%2d-%2dT%2d:%2d", &year, &month, &day, &hour, &minute) == 5)
            html_textf(out, "%04d-%02d-%02d %02d:%02d%s", year, month, day, hour, minute,
                       r->made[strlen(r->made) - 1] == 'Z' ? " UTC" : "");
        else
            html_text(out, r->made);
        fputs("</span>", out);
    }
    fputs("</p>\n</header>\n<main>\n", out);
}

/* ------------------------------------------------------------------------------------------ verdict ----- */

/* The longest context that was predicted for the plan. */
static const struct report_prediction *last_prediction(const struct report_point *p)
{
    return p->n_predicted ? &p->predicted[p->n_predicted - 1] : NULL;
}

static void write_sentence(const struct report *r, FILE *out)
{
    const struct report_point *p = r->chosen;
    const struct report_prediction *last = last_prediction(p);
    const struct report_prediction *base = last ? report_prediction_at(&r->baseline, last->context) : NULL;
    char text[REPORT_TEXT_CAP], bytes[32];
    fprintf(out, "<p class='lead'>The chosen plan keeps each element of the cache in <b>%.2f bits</b>",
            p->true_bits);
    if (base && !isnan(r->baseline.true_bits)) fprintf(out, " instead of %.1f", r->baseline.true_bits);
    fputs(". ", out);
    if (last) {
        fprintf(out, "At %s tokens of context that is <b>%s</b>", report_tokens_text(text, last->context),
                bytes_text(bytes, last->memory_bytes));
        if (base) fprintf(out, " instead of %s", bytes_text(bytes, base->memory_bytes));
        fputs(". ", out);
    }
    if (!isnan(p->same_top_p))
        fprintf(out, "At <b>%.1f %%</b> of the positions it prefers the same next token as a 16-bit cache. ",
                p->same_top_p);
    if (base && base->tokens_per_s > 0.0 && last->tokens_per_s > 0.0) {
        double ratio = last->tokens_per_s / base->tokens_per_s;
        if (ratio >= 1.03)
            fprintf(out, "Generation there is predicted to be <b>%.2f times as fast</b>.", ratio);
        else if (ratio <= 0.97)
            fprintf(out, "Generation there is predicted to be <b>%.0f %% slower</b>.", 100 * (1 - ratio));
        else
            fputs("Generation there is predicted to be as fast.", out);
    }
    fputs("</p>\n", out);
}

__attribute__((format(printf, 5, 6)))
static void write_tile(FILE *out, const char *label, const char *value, const char *unit, const char *format,
                       ...)
{
    char sub[160];
    va_list args;
    va_start(args, format);
    vsnprintf(sub, sizeof sub, format, args);
    va_end(args);
    fprintf(out, "<div><dt>%s</dt><dd class='big'>", label);
    html_text(out, value);
    if (*unit) fprintf(out, " <span class='unit'>%s</span>", unit);
    fputs("</dd><dd class='sub'>", out);
    html_text(out, sub);
    fputs("</dd></div>\n", out);
}

static void write_tiles(const struct report *r, FILE *out)
{
    const struct report_point *p = r->chosen;
    const struct report_prediction *last = last_prediction(p);
    const struct report_prediction *base = last ? report_prediction_at(&r->baseline, last->context) : NULL;
    char a[REPORT_TEXT_CAP], b[REPORT_TEXT_CAP], bytes[32], more[32];
    fputs("<dl class='tiles'>\n", out);
    write_tile(out, "True bits per element", report_fixed_text(a, p->true_bits, 2), "", "%s in full pages",
               report_fixed_text(b, p->page_bits, 2));
    write_tile(out, "KL divergence, mean", report_divergence_text(a, p->kld_mean), "nats", "99.9 %% below %s",
               report_divergence_text(b, p->kld_p999));
    write_tile(out, "Same top token", report_fixed_text(a, p->same_top_p, 1), "%", "perplexity \xC3\x97 %s",
               report_fixed_text(b, p->ppl_ratio, 4));
    if (last && base)
        write_tile(out, "Memory of the cache", bytes_text(bytes, last->memory_bytes), "",
                   "at %s; 16 bits: %s", report_tokens_text(a, last->context),
                   bytes_text(more, base->memory_bytes));
    else if (last)
        write_tile(out, "Memory of the cache", bytes_text(bytes, last->memory_bytes), "", "at %s",
                   report_tokens_text(a, last->context));
    if (last && base)
        write_tile(out, "Generation, predicted", report_fixed_text(a, last->tokens_per_s, 1), "tokens/s",
                   "at %s; 16 bits: %.1f", report_tokens_text(b, last->context), base->tokens_per_s);
    else if (last)
        write_tile(out, "Generation, predicted", report_fixed_text(a, last->tokens_per_s, 1), "tokens/s",
                   "at %s", report_tokens_text(b, last->context));
    fputs("</dl>\n", out);
}

static void write_verdict(const struct report *r, FILE *out)
{
    if (!r->chosen) {
        fputs("<p class='lead'>No plan was chosen.</p>\n", out);
        return;
    }
    if (r->chosen->verdict == REPORT_COLLAPSED) {
        fputs("<p class='warn'><b>This plan collapses.</b> ", out);
        html_text(out, r->chosen->gate_reason);
        fputs(" The commands run it with --force alone.</p>\n", out);
    }
    write_sentence(r, out);
    write_tiles(r, out);
}

/* --------------------------------------------------------------------------------------------- menu ----- */

static void write_point(const struct report *r, FILE *out, const struct report_point *p)
{
    char text[REPORT_TEXT_CAP];
    const struct {
        double value;
        int n_decimals;
    } columns[] = { { p->true_bits, 3 }, { p->page_bits, 3 },    { p->bytes_per_token, 0 },
                    { p->kld_mean, 5 },  { p->kld_p999, 4 },     { p->same_top_p, 1 },
                    { p->ppl_ratio, 4 }, { p->kld_predicted, 5 } };
    fprintf(out, "<tr id='p%d'%s><th scope='row'>", (int)(p - r->points),
            p->chosen      ? " class='chosen'"
            : p->dominated ? " class='dominated'"
                           : "");
    report_icon(out, p->source);
    fputs("<span class='plan' title='", out);
    html_text(out, p->spec ? p->spec : p->name);
    fputs("'>", out);
    html_text(out, p->name);
    fputs("</span>", out);
    if (p->chosen) fputs("<span class='tag ok'>chosen</span>", out);
    if (p->verdict == REPORT_COLLAPSED) fputs("<span class='tag bad'>collapsed</span>", out);
    if (p->dominated) fputs("<span class='tag'>dominated</span>", out);
    fputs("</th>", out);
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        fprintf(out, "<td>%s</td>", report_fixed_text(text, columns[i].value, columns[i].n_decimals));
    fputs("</tr>\n", out);
}

static void write_menu(const struct report *r, FILE *out)
{
    fputs("<section id='menu' aria-labelledby='menu-title'>\n<h2 id='menu-title'>The menu</h2>\n", out);
    if (r->n_points == 0) {
        fputs("<p>The search found no plan.</p>\n</section>\n", out);
        return;
    }
    report_front(r, out);
    fputs("<div class='scroll' tabindex='0' role='region' aria-label='all plans'><table><thead><tr><th "
          "scope='col' class='left'>plan</th><th scope='col'>true bits</th><th scope='col'>page bits</th><th "
          "scope='col'>bytes/token</th><th scope='col'>KLD mean</th><th scope='col'>KLD 99.9 %</th><th "
          "scope='col'>same top %</th><th scope='col'>ppl ratio</th><th scope='col'>KLD "
          "expected</th></tr></thead><tbody>\n",
          out);
    for (size_t i = 0; i < r->n_points; i++) write_point(r, out, &r->points[i]);
    fputs("</tbody></table></div>\n<p class='note below'>KLD: of the next-token distribution, against the "
          "16-bit cache of the same engine on text that the search did not see. Expected: the sum over "
          "single layers that the search went by. True bits count every byte of the cache",
          out);
    if (!isnan(r->settings.context)) fprintf(out, " at %.0f tokens", r->settings.context);
    fputs(", page bits those of its full pages.</p>\n</section>\n", out);
}

/* --------------------------------------------------------------------------------------------- gate ----- */

static bool has_gate(const struct report *r)
{
    for (size_t i = 0; i < r->n_points; i++)
        if (r->points[i].verdict != REPORT_NO_GATE) return true;
    return false;
}

static void write_gate(const struct report *r, FILE *out)
{
    fputs("<section id='gate' aria-labelledby='gate-title'>\n<h2 id='gate-title'>The gate</h2>\n<p "
          "class='note'>Before a plan may run, its greedy answers are compared with those of the 16-bit "
          "cache. Agreement: the part of an answer before the first other token.</p>\n<div class='scroll' "
          "tabindex='0' role='region' aria-label='verdicts of the gate'><table><thead><tr><th scope='col' "
          "class='left'>plan</th><th scope='col' class='left'>verdict</th><th scope='col'>true bits</th><th "
          "scope='col'>agreement</th><th scope='col' class='left'>reason</th></tr></thead><tbody>\n",
          out);
    for (size_t i = 0; i < r->n_points; i++) {
        const struct report_point *p = &r->points[i];
        char text[REPORT_TEXT_CAP];
        if (p->verdict == REPORT_NO_GATE) continue;
        fprintf(out, "<tr%s><th scope='row'>", p->chosen ? " class='chosen'" : "");
        report_icon(out, p->source);
        fputs("<span class='plan'>", out);
        html_text(out, p->name);
        fprintf(out, "</span></th><td class='left'><span class='tag alone %s'>%s</span></td><td>%s</td><td>",
                p->verdict == REPORT_PASS ? "ok" : "bad", p->verdict == REPORT_PASS ? "pass" : "collapsed",
                report_fixed_text(text, p->true_bits, 3));
        fprintf(out, "%s%s</td><td class='left'>", report_fixed_text(text, 100.0 * p->gate_agreement, 0),
                isnan(p->gate_agreement) ? "" : " %");
        html_text(out, p->gate_reason);
        fputs("</td></tr>\n", out);
    }
    fputs("</tbody></table></div>\n</section>\n", out);
}

/* ------------------------------------------------------------------------------------------- making ----- */

static void write_fact(FILE *out, const char *label, const char *value)
{
    if (!value || !*value) return;
    fprintf(out, "<div><dt>%s</dt><dd>", label);
    html_text(out, value);
    fputs("</dd></div>\n", out);
}

static void write_number_fact(FILE *out, const char *label, double value, int n_decimals, const char *unit)
{
    char number[REPORT_TEXT_CAP], text[64];
    if (isnan(value)) return;
    snprintf(text, sizeof text, "%s%s", report_fixed_text(number, value, n_decimals), unit);
    write_fact(out, label, text);
}

static void write_settings(const struct report *r, FILE *out)
{
    const struct report_settings *s = &r->settings;
    char text[1024] = "";
    size_t n = 0;
    write_fact(out, "Method", s->method);
    write_fact(out, "Granularity", s->granularity);
    if (s->has_mix) write_fact(out, "Channel classes", s->mix ? "yes" : "no");
    for (size_t i = 0; i < s->n_budgets && n + 24 < sizeof text; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%g", i ? ", " : "", s->budgets[i]);
    write_fact(out, "Budgets, bits", text);
    write_number_fact(out, "Bits are stated at", s->context, 0, " tokens");
    write_fact(out, "Text", s->text);
    write_number_fact(out, "Tokens to tune on", s->n_tokens_tuning, 0, "");
    write_number_fact(out, "Tokens to measure on", s->n_tokens_verify, 0, "");
    snprintf(text, sizeof text, "%lld", (long long)s->seed);
    if (s->seed >= 0) write_fact(out, "Seed", text);
}

static void write_facts(const struct report *r, FILE *out)
{
    char text[REPORT_TEXT_CAP], bytes[32];
    fputs("<dl class='facts'>\n", out);
    write_settings(r, out);
    write_fact(out, "Weights", r->model.quantization);
    if (!isnan(r->model.file_bytes)) write_fact(out, "Model file", bytes_text(bytes, r->model.file_bytes));
    write_fact(out, "Kernels", r->machine.cpu);
    write_number_fact(out, "Threads", r->machine.n_threads, 0, "");
    write_number_fact(out, "Read bandwidth", r->machine.read_gb_per_s, 1, " GB/s");
    if (!isnan(r->cost.seconds)) write_fact(out, "Time", report_seconds_text(text, r->cost.seconds));
    write_number_fact(out, "Plans measured", r->cost.n_measured, 0, "");
    write_number_fact(out, "Taken from the store", r->cost.n_from_store, 0, "");
    if (!isnan(r->cost.peak_bytes)) write_fact(out, "Peak memory", bytes_text(bytes, r->cost.peak_bytes));
    fputs("</dl>\n", out);
    if (r->model.fingerprint) {
        fputs("<p class='note'>Fingerprint of the model: <code>", out);
        html_text(out, r->model.fingerprint);
        fputs("</code></p>\n", out);
    }
}

static void write_phases(const struct report *r, FILE *out)
{
    double sum = 0.0, x = 0.0;
    char text[REPORT_TEXT_CAP];
    for (size_t i = 0; i < r->cost.n_phases; i++) sum += r->cost.phases[i].seconds;
    if (!(sum > 0.0)) return;
    fputs(
        "<h3>Where the time went</h3>\n<figure><svg viewBox='0 0 960 26' role='img' aria-label='time of each "
        "phase'>",
        out);
    for (size_t i = 0; i < r->cost.n_phases; i++) {
        const struct report_phase *p = &r->cost.phases[i];
        double w = 960.0 * p->seconds / sum;
        fprintf(out, "<rect class='phase b%d' x='%.1f' y='2' width='%.1f' height='20'>",
                (int)(7 - 2 * (i % 4)), x, w);
        svg_titlef(out, "%s: %s", p->what, report_seconds_text(text, p->seconds));
        fputs("</rect>", out);
        x += w;
    }
    fputs("</svg><ul class='key'>", out);
    for (size_t i = 0; i < r->cost.n_phases; i++) {
        fprintf(
            out,
            "<li><svg viewBox='0 0 16 16' aria-hidden='true'><rect class='b%d' y='2' width='14' "
            "height='12'/></svg>",
            (int)(7 - 2 * (i % 4)));
        html_textf(out, "%.200s %s", r->cost.phases[i].what,
                   report_seconds_text(text, r->cost.phases[i].seconds));
        fputs("</li>", out);
    }
    fputs("</ul></figure>\n", out);
}

static void write_making(const struct report *r, FILE *out)
{
    fputs(
        "<section id='making' aria-labelledby='making-title'>\n<h2 id='making-title'>How it was made</h2>\n",
        out);
    write_facts(r, out);
    write_phases(r, out);
    if (r->settings.command) {
        fputs("<h3>The command</h3>\n<pre>", out);
        html_text(out, r->settings.command);
        fputs("</pre>\n", out);
    }
    fputs("</section>\n", out);
}

/* --------------------------------------------------------------------------------------------- page ----- */

void report_write_html(const struct report *r, FILE *out)
{
    bool has_map = r->chosen && r->chosen->layers;
    write_head(r, out);
    write_verdict(r, out);
    fputs("<nav aria-label='sections'><ul><li><a href='#menu'>Menu</a></li>", out);
    if (has_map) fputs("<li><a href='#plan'>Plan</a></li>", out);
    if (report_has_predictions(r)) fputs("<li><a href='#speed'>Speed and memory</a></li>", out);
    if (has_gate(r)) fputs("<li><a href='#gate'>Gate</a></li>", out);
    if (report_has_sensitivity(r)) fputs("<li><a href='#sensitivity'>Sensitivity</a></li>", out);
    bool has_readers = r->readers.score_root || r->readers.router_root;
    if (has_readers) fputs("<li><a href='#readers'>Reading the cache</a></li>", out);
    fputs("<li><a href='#making'>How it was made</a></li></ul></nav>\n", out);
    write_menu(r, out);
    if (has_map) {
        fputs("<section id='plan' aria-labelledby='plan-title'>\n<h2 id='plan-title'>The chosen plan, layer "
              "by layer</h2>\n",
              out);
        report_bits_map(r, out);
        fputs("</section>\n", out);
    }
    if (report_has_predictions(r)) {
        fputs("<section id='speed' aria-labelledby='speed-title'>\n<h2 id='speed-title'>Speed and memory at "
              "long context</h2>\n<p class='note'>Speed is predicted from times of each kernel, measured on "
              "this machine; memory is exact.</p>\n",
              out);
        report_speed(r, out);
        fputs("</section>\n", out);
    }
    if (has_gate(r)) write_gate(r, out);
    if (report_has_sensitivity(r)) {
        fputs("<section id='sensitivity' aria-labelledby='sensitivity-title'>\n<h2 "
              "id='sensitivity-title'>What each layer tolerates</h2>\n",
              out);
        report_sensitivity(r, out);
        fputs("</section>\n", out);
    }
    if (has_readers) {
        fputs("<section id='readers' aria-labelledby='readers-title'>\n<h2 id='readers-title'>Reading the "
              "cache</h2>\n",
              out);
        report_readers_write(&r->readers, out);
        fputs("</section>\n", out);
    }
    write_making(r, out);
    fputs("</main>\n<footer>\n<p>Written by kvant report from a kvant-tune-report, version 1. The page holds "
          "everything it shows; nothing is loaded.</p>\n</footer>\n</body>\n</html>\n",
          out);
}
