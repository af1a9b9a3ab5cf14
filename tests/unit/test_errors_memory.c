/*
 * Memory of sensitivities: every allocation may fail, which is told and leaks nothing.
 */
#include "kvant.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "support/allocation_hooks.h"
#include "support/scratch.h"
#include "support/tiny_gguf.h"

static void every_allocation_may_fail(void **state)
{
    (void)state;
    char path[SCRATCH_CAP];
    struct tiny_gguf_options tiny = { .arch = "llama", .n_layer = 1, .seed = 3 };
    struct kvant_model_options model_options = KVANT_MODEL_OPTIONS_INIT;
    struct kvant_error err = { .message = "" };
    struct kvant_model *model;
    model_options.n_threads = 1; /* the hooks know one thread */
    if (tiny_gguf_write(scratch_path(path, "test_errors_memory.gguf"), &tiny, &err) ||
        kvant_model_open(&model, path, &model_options, &err))
        fail_msg("%s", err.message);
    unlink(path);

    kvant_token tokens[70];
    for (int i = 0; i < 70; i++) tokens[i] = (kvant_token)(7 * i % 250);
    const struct kvant_prompt prompt = { tokens, 70 };
    const char *recipe = "k2c32m v2h";
    struct kvant_sensitivity_options opt = KVANT_SENSITIVITY_OPTIONS_INIT;
    opt.n_predict = 2;
    opt.channels = true;
    opt.kld_recipes = &recipe;
    opt.n_kld_recipes = 1;

    struct kvant_sensitivity *s = NULL;
    int n_live = hooks.n_live;
    kvant_status status = KVANT_ERR_MEMORY;
    long n_failed = 0;
    for (; status != KVANT_OK; n_failed++) {
        hooks.n_calls = 0;
        hooks.fail_at = n_failed;
        err.message[0] = '\0';
        status = kvant_sensitivity_run(&s, model, &prompt, 1, &opt, &err);
        hooks.fail_at = -1;
        if (status == KVANT_OK) break;
        assert_int_equal(status, KVANT_ERR_MEMORY);
        assert_null(s);
        assert_true(err.message[0] != '\0');
        assert_int_equal(hooks.n_live, n_live);
    }
    assert_true(n_failed > 50); /* more than that are made */
    kvant_sensitivity_close(s);
    assert_int_equal(hooks.n_live, n_live);
    kvant_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_allocation_may_fail) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
