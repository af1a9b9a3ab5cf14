#include <math.h>
#include <stdio.h>

#include "report_parts.h"

#define DASH     "\xE2\x80\x93"
#define INFINITE "\xE2\x88\x9E"

const char *report_divergence_text(char text[REPORT_TEXT_CAP], double kld)
{
    if (isnan(kld)) return snprintf(text, REPORT_TEXT_CAP, DASH), text;
    if (isinf(kld)) return snprintf(text, REPORT_TEXT_CAP, INFINITE), text;
    if (kld < 1e-7) return snprintf(text, REPORT_TEXT_CAP, kld > 0.0 ? "<0.0000001" : "0"), text;
    int n_decimals = 1 - (int)floor(log10(kld));
    snprintf(text, REPORT_TEXT_CAP, "%.*f", n_decimals > 0 ? n_decimals : 0, kld);
    return text;
}

const char *report_fixed_text(char text[REPORT_TEXT_CAP], double value, int n_decimals)
{
    if (isnan(value))
        snprintf(text, REPORT_TEXT_CAP, DASH);
    else if (isinf(value))
        snprintf(text, REPORT_TEXT_CAP, INFINITE);
    else if (value >= 1e9)
        snprintf(text, REPORT_TEXT_CAP, "%.3g", value);
    else
        snprintf(text, REPORT_TEXT_CAP, "%.*f", n_decimals, value);
    return text;
}

const char *report_seconds_text(char text[REPORT_TEXT_CAP], double seconds)
{
    long long s = isnan(seconds) ? 0 : llround(seconds);
    if (isnan(seconds))
        snprintf(text, REPORT_TEXT_CAP, DASH);
    else if (seconds < 10.0)
        snprintf(text, REPORT_TEXT_CAP, "%.1f s", seconds);
    else if (s < 60)
        snprintf(text, REPORT_TEXT_CAP, "%lld s", s);
    else if (s < 3600)
        snprintf(text, REPORT_TEXT_CAP, "%lld min %lld s", s / 60, s % 60);
    else
        snprintf(text, REPORT_TEXT_CAP, "%lld h %lld min", s / 3600, s % 3600 / 60);
    return text;
}

const char *report_tokens_text(char text[REPORT_TEXT_CAP], double n_tokens)
{
    if (n_tokens >= 1024.0 && fmod(n_tokens, 1024.0) == 0.0)
        snprintf(text, REPORT_TEXT_CAP, "%.0fK", n_tokens / 1024.0);
    else
        snprintf(text, REPORT_TEXT_CAP, "%.0f", n_tokens);
    return text;
}
