/*
 * lm-evaluation-harness takes the last match of (-?[$0-9.,]{2,})|(-?[0-9]+) in the text, drops "$", "," and a
 * last ".", and compares strings. Here matches without a digit are passed over (there "Done..." hides the
 * number before it), and numbers are compared as numbers: 18.00 is 18.
 */
#include "tune/answer.h"

#include <math.h>
#include <string.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_part(char c)
{
    return is_digit(c) || c == '$' || c == '.' || c == ',';
}

/* The match that begins at i: its end; i when there is none. */
static size_t match_at(const char *text, size_t n, size_t i)
{
    size_t first = i + (text[i] == '-'), end = first;
    while (end < n && is_part(text[end])) end++;
    if (end - first >= 2) return end;
    return end - first == 1 && is_digit(text[first]) ? end : i;
}

/* "-$1,250.50" -> "-1250.5"; false when what is left is no decimal number, or is longer than out. */
static bool canonical(const char *match, size_t n, char out[KV_ANSWER_CAP])
{
    size_t n_out = 0, n_whole = 0;
    bool negative = n > 0 && match[0] == '-', has_point = false, is_zero = true;
    while (n > 0 && (match[n - 1] == '.' || match[n - 1] == ',' || match[n - 1] == '$')) n--;
    for (size_t i = negative; i < n; i++) {
        char c = match[i];
        if (c == '$' || c == ',') continue;
        if (c == '.' && has_point) return false;
        if (c == '0' && n_out == 0 && !has_point) continue; /* leading zeros */
        if (n_out + 4 > KV_ANSWER_CAP) return false;         /* a sign, a zero and the end besides */
        has_point |= c == '.';
        is_zero &= c == '.' || c == '0';
        n_whole += !has_point;
        out[n_out++] = c;
    }
    while (has_point && out[n_out - 1] == '0') n_out--;
    if (has_point && out[n_out - 1] == '.') n_out--;
    size_t n_before = (size_t)(negative && !is_zero) + (n_whole == 0); /* "-", "0" */
    memmove(out + n_before, out, n_out);
    if (n_whole == 0) out[n_before - 1] = '0';
    if (negative && !is_zero) out[0] = '-';
    out[n_before + n_out] = '\0';
    return true;
}

static bool extract_number(const char *text, size_t n, char out[KV_ANSWER_CAP])
{
    size_t last = 0, last_end = 0;
    for (size_t i = 0; i < n;) {
        size_t end = match_at(text, n, i);
        bool has_digit = false;
        for (size_t k = i; k < end; k++) has_digit |= is_digit(text[k]);
        if (has_digit) {
            last = i;
            last_end = end;
        }
        i = end > i ? end : i + 1;
    }
    return last_end > last && canonical(text + last, last_end - last, out);
}

static bool is_word(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (unsigned char)c >= 0x80 ||
           c == '\'' || c == '_';
}

static bool is_letter_at(const char *text, size_t n, size_t i)
{
    if (text[i] < 'A' || text[i] > 'Z') return false;
    return !(i > 0 && is_word(text[i - 1])) && !(i + 1 < n && is_word(text[i + 1]));
}

static bool extract_letter(const char *text, size_t n, char out[KV_ANSWER_CAP])
{
    for (size_t i = 0; i < n; i++) {
        if (!is_letter_at(text, n, i)) continue;
        out[0] = text[i];
        out[1] = '\0';
        return true;
    }
    return false;
}

/* A letter that names a choice: neither the pronoun nor the article. */
static bool is_choice_at(const char *text, size_t n, size_t i)
{
    if (!is_letter_at(text, n, i) || text[i] == 'I') return false;
    return !(text[i] == 'A' && i + 2 < n && text[i + 1] == ' ' && text[i + 2] >= 'a' && text[i + 2] <= 'z');
}

static bool same_without_case(const char *text, const char *small, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((text[i] >= 'A' && text[i] <= 'Z' ? text[i] - 'A' + 'a' : text[i]) != small[i]) return false;
    return true;
}

/* Behind the last "answer is" or "answer:"; 0: there is none. */
static size_t behind_the_answer(const char *text, size_t n)
{
    static const char *const names[] = { "answer is", "answer:" };
    size_t last = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            size_t length = strlen(names[k]);
            if (n - i >= length && same_without_case(text + i, names[k], length)) last = i + length;
        }
    return last;
}

static bool extract_choice(const char *text, size_t n, char out[KV_ANSWER_CAP])
{
    size_t begin = behind_the_answer(text, n), found = n;
    for (size_t i = begin; i < n && !(begin > 0 && found < n); i++)
        if (is_choice_at(text, n, i)) found = i;
    for (size_t i = begin; i > 0 && found == n; i--) /* named before, as in "B is the answer: yes" */
        if (is_choice_at(text, n, i - 1)) found = i - 1;
    if (found == n) return false;
    out[0] = text[found];
    out[1] = '\0';
    return true;
}

kvant_answer_kind kv_answer_kind_of(kvant_answer_kind kind, const char *right)
{
    if (kind != KVANT_ANSWER_AUTO) return kind;
    size_t n = strlen(right);
    while (n > 0 &&
           (right[n - 1] == ' ' || right[n - 1] == '\t' || right[n - 1] == '\r' || right[n - 1] == '\n'))
        n--;
    return n == 1 && right[0] >= 'A' && right[0] <= 'Z' ? KVANT_ANSWER_CHOICE : KVANT_ANSWER_NUMBER;
}

bool kv_answer_extract(kvant_answer_kind kind, const char *text, size_t n, char out[KV_ANSWER_CAP])
{
    bool found = kind == KVANT_ANSWER_LETTER   ? extract_letter(text, n, out)
                 : kind == KVANT_ANSWER_CHOICE ? extract_choice(text, n, out)
                                               : extract_number(text, n, out);
    if (!found) out[0] = '\0';
    return found;
}

bool kvant_answer_check(kvant_answer_kind kind, const char *text, size_t n, const char *right, char *found)
{
    char own[KV_ANSWER_CAP], wanted[KV_ANSWER_CAP];
    size_t n_right = strlen(right);
    kind = kv_answer_kind_of(kind, right);
    bool is_there = kv_answer_extract(kind, text, n, found ? found : own);
    bool is_wanted = kind == KVANT_ANSWER_CHOICE ? extract_letter(right, n_right, wanted)
                                                 : kv_answer_extract(kind, right, n_right, wanted);
    return is_there && is_wanted && strcmp(found ? found : own, wanted) == 0;
}

size_t kv_answer_stop(const char *text, size_t n, const char *const *stops, int n_stops)
{
    size_t first = n;
    for (int i = 0; i < n_stops; i++) {
        const char *at = memmem(text, n, stops[i], strlen(stops[i]));
        if (at && (size_t)(at - text) < first) first = (size_t)(at - text);
    }
    return first;
}

/* ------------------------------------------------------------------------------------------ statistics -- */

void kv_wilson(int64_t k, int64_t n, double *low, double *high)
{
    const double z = 1.959963984540054; /* the normal distribution's .975 quantile */
    *low = 0.0;
    *high = 100.0;
    if (n < 1) return;
    double p = (double)k / (double)n, z2n = z * z / (double)n;
    double middle = (p + 0.5 * z2n) / (1.0 + z2n);
    double half = z * sqrt(p * (1.0 - p) / (double)n + 0.25 * z2n / (double)n) / (1.0 + z2n);
    *low = k == 0 ? 0.0 : 100.0 * (middle - half); /* exact in mathematics, not in rounded numbers */
    *high = k == n ? 100.0 : 100.0 * (middle + half);
}

double kv_mcnemar(int64_t a, int64_t b)
{
    int64_t n = a + b, k = a < b ? a : b;
    double log_term = -(double)n * log(2.0), sum = 0.0; /* log of C(n, i) / 2^n */
    for (int64_t i = 0; i <= k; i++) {
        sum += exp(log_term);
        log_term += log((double)(n - i)) - log((double)(i + 1));
    }
    return fmin(2.0 * sum, 1.0);
}
