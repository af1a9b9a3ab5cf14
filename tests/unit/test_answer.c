/* Answers found in text, and the statistics of right and wrong. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tune/answer.h"

struct row {
    const char *text, *found; /* "": no answer */
};

static void check(kvant_answer_kind kind, const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char out[KV_ANSWER_CAP] = "untouched";
        bool found = kv_answer_extract(kind, rows[i].text, strlen(rows[i].text), out);
        if (strcmp(out, rows[i].found) != 0 || found != (rows[i].found[0] != 0))
            fail_msg("'%s': '%s', not '%s'", rows[i].text, out, rows[i].found);
    }
}

static void the_last_number_is_the_answer(void **state)
{
    (void)state;
    static const struct row rows[] = {
        { "", "" },
        { "none at all", "" },
        { "#### 72", "72" },
        { "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
          "Natalia sold 48+24 = <<48+24=72>>72 clips.\n#### 72",
          "72" },
        { "The answer is 5", "5" },
        { "The answer is 5.", "5" },
        { "The answer is 15.", "15" },
        { "That is $1,250.50 in all", "1250.5" },
        { "That is $1,250.50, in all", "1250.5" },
        { "costs 20$", "20" },
        { "1,000,000 people", "1000000" },
        { "a loss of -12 dollars", "-12" },
        { "a loss of -$12.75", "-12.75" },
        { "a loss of $-12", "-12" },
        { "7-3=4", "4" },
        { "so 7-3", "-3" },              /* as the harness reads it */
        { "between 3 and 4 hours", "4" },
        { "x = 18.00", "18" },
        { "x = 18.50", "18.5" },
        { "x = 0018", "18" },
        { "x = 0", "0" },
        { "x = 0.0", "0" },
        { "x = -0", "0" },
        { "x = .5", "0.5" },
        { "x = -.50", "-0.5" },
        { "x = 100", "100" },            /* zeros of a whole number stay */
        { "x = 1.050", "1.05" },
        { "50%", "50" },
        { "3 apples, 4 pears. Done...", "4" }, /* a match without a digit hides nothing */
        { "12 - $ , .", "12" },
        { "-", "" },
        { "$.", "" },
        { "version 1.2.3", "" },         /* no decimal number */
        { "9 then version 1.2.3", "" },  /* the last match decides */
        { "2\xc2\xb2 = 4", "4" },
        { "\xef\xbc\x95 only", "" },     /* a full-width five is no digit of the pattern */
        { "it is 5th", "5" },
        { "12345678901234567890123456789012345678901234567890",
          "12345678901234567890123456789012345678901234567890" },
        { "1234567890123456789012345678901234567890123456789012345678901234567890", "" },
        /* longer than any answer */
        { "1/2", "2" },
        { "1e3", "3" },
    };
    check(KVANT_ANSWER_NUMBER, rows, sizeof rows / sizeof rows[0]);
}

static void bytes_behind_the_text_are_not_read(void **state)
{
    (void)state;
    char out[KV_ANSWER_CAP];
    assert_true(kv_answer_extract(KVANT_ANSWER_NUMBER, "12345", 3, out));
    assert_string_equal(out, "123");
    assert_false(kv_answer_extract(KVANT_ANSWER_NUMBER, "-5", 1, out));
    assert_false(kv_answer_extract(KVANT_ANSWER_LETTER, " B", 1, out));
    assert_true(kv_answer_extract(KVANT_ANSWER_NUMBER, "a\0" "7", 3, out));
    assert_string_equal(out, "7");
}

static void a_letter_that_stands_alone_is_the_answer(void **state)
{
    (void)state;
    static const struct row rows[] = {
        { " B", "B" },       { "(C) a house", "C" },       { "The answer is D.", "D" }, { "b", "" },
        { "Bee", "" },       { "A: because", "A" },        { "It's E", "E" },
        { "I'm sure: B", "B" },
        { "B2", "" },        { "\xc3\xa9" "A", "" },       { "", "" },                  { "X_1 or Y", "Y" },
    };
    check(KVANT_ANSWER_LETTER, rows, sizeof rows / sizeof rows[0]);
}

static void a_text_that_argues_names_its_choice_last(void **state)
{
    (void)state;
    static const struct row rows[] = {
        { "The answer is (A) bank. Not (B), a library.", "A" },
        { "A door is no library, so (C) is out. The correct answer is: B. I mean it.", "B" },
        { "Answer: D\nThe answer is E", "E" },
        { "I think A is wrong and C right", "C" },
        { "A bank", "" },
        { "I", "" },
        { "so \\boxed{E}", "E" },
        { "B. That is the answer: yes", "B" },
        { "the answer is", "" },
        { "", "" },
    };
    check(KVANT_ANSWER_CHOICE, rows, sizeof rows / sizeof rows[0]);
    char found[KVANT_ANSWER_CAP];
    const char text[] = "Of 3, the answer is (B), 12 of them";
    assert_true(kvant_answer_check(KVANT_ANSWER_AUTO, text, sizeof text - 1, "B", found));
    assert_string_equal(found, "B");
    assert_true(kvant_answer_check(KVANT_ANSWER_AUTO, text, sizeof text - 1, "12.0", found));
    assert_string_equal(found, "12");
    assert_false(kvant_answer_check(KVANT_ANSWER_AUTO, text, sizeof text - 1, "A", NULL));
    assert_true(kvant_answer_check(KVANT_ANSWER_AUTO, "A", 1, "A", NULL));
    assert_false(kvant_answer_check(KVANT_ANSWER_NUMBER, text, sizeof text - 1, "none", NULL));
}

static void text_ends_at_the_first_stop(void **state)
{
    (void)state;
    const char *const stops[] = { "Question:", "\n\n" };
    assert_int_equal(kv_answer_stop("42\nQuestion: 7", 14, stops, 2), 3);
    assert_int_equal(kv_answer_stop("42\n\nQuestion: 7", 15, stops, 2), 2);
    assert_int_equal(kv_answer_stop("42 Question", 11, stops, 2), 11);
    assert_int_equal(kv_answer_stop("Question:", 9, stops, 1), 0);
    assert_int_equal(kv_answer_stop("Question:", 8, stops, 1), 8);
    assert_int_equal(kv_answer_stop("anything", 8, NULL, 0), 8);
}

/* The ends of the interval are the shares p from which k of n is just 1.96 deviations away: |k/n - p| =
 * z sqrt(p (1 - p) / n), which is not how they are computed. */
static void intervals_and_pairs(void **state)
{
    (void)state;
    static const struct { int64_t k, n; } rows[] = { { 60, 200 }, { 0, 10 }, { 10, 10 }, { 1, 2 },
                                                     { 1, 1319 } };
    for (size_t i = 0; i < 5; i++) {
        double end[2], k = (double)rows[i].k, n = (double)rows[i].n;
        kv_wilson(rows[i].k, rows[i].n, &end[0], &end[1]);
        assert_true(0 <= end[0] && end[0] <= 100 * k / n && 100 * k / n <= end[1] && end[1] <= 100);
        for (int e = 0; e < 2; e++) {
            double p = end[e] / 100;
            if (p == 0 || p == 1) continue;
            if (fabs(fabs(k / n - p) - 1.959963985 * sqrt(p * (1 - p) / n)) > 1e-8)
                fail_msg("%g of %g: %g", k, n, end[e]);
        }
        assert_true(k > 0 || end[0] == 0);
        assert_true(k < n || end[1] > 100 - 1e-9);
    }
    double low, high;
    kv_wilson(0, 0, &low, &high);
    assert_true(low == 0.0 && high == 100.0);
    assert_true(kv_mcnemar(0, 0) == 1.0 && kv_mcnemar(3, 3) == 1.0);
    assert_true(fabs(kv_mcnemar(10, 2) - 2.0 * (1 + 12 + 66) / 4096.0) < 1e-12);
    assert_true(fabs(kv_mcnemar(2, 10) - kv_mcnemar(10, 2)) < 1e-15);
    assert_true(fabs(kv_mcnemar(0, 5) - 0.0625) < 1e-12);
    /* far beyond what a factorial holds; 2 * sum of C(1100, i), i <= 500, / 2^1100 in whole numbers */
    assert_true(fabs(kv_mcnemar(600, 500) - 0.0028195449914364275) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_number_is_the_answer),
        cmocka_unit_test(bytes_behind_the_text_are_not_read),
        cmocka_unit_test(a_letter_that_stands_alone_is_the_answer),
        cmocka_unit_test(a_text_that_argues_names_its_choice_last),
        cmocka_unit_test(text_ends_at_the_first_stop),
        cmocka_unit_test(intervals_and_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
