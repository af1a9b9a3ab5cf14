/*
 * What the server makes of an answer's tokens: thoughts, stop texts, calls of tools, characters that tokens
 * cut; and which sequences it keeps as prefixes. A tiny model lends its vocabulary.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kvant.h"
#undef fail /* cmocka's; the program has a function of that name */
#include "programs/serve_engine.h"

static struct server server;

static int setup(void **state)
{
    struct kvant_error err;
    struct kvant_model_options opt = KVANT_MODEL_OPTIONS_INIT;
    const char *build = getenv("KVANT_BUILD");
    char path[1024], command[2048];
    (void)state;
    if (!build) build = "build";
    snprintf(path, sizeof path, "%s/test_program_serve.gguf", build);
    snprintf(command, sizeof command, "%s/tools/make_tiny_model %s llama 1 8 >/dev/null", build, path);
    if (system(command) != 0 || kvant_model_open(&server.model, path, &opt, &err) != KVANT_OK) return -1;
    kvant_model_get_info(server.model, &server.info);
    snprintf(server.name, sizeof server.name, "tiny");
    snprintf(server.plans[0].name, sizeof server.plans[0].name, "default");
    server.n_plans = 1;
    return kvant_plan_open(&server.plans[0].plan, server.model, "f16", &err) == KVANT_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    kvant_plan_close(server.plans[0].plan);
    kvant_model_close(server.model);
    return 0;
}

/* Feeds a text token by token; the lane ends with `finish` unless a stop text ended it. Returns what was
 * sent. */
static json_t *answer(struct request request, const char *text)
{
    struct job *job = job_open(JOB_ANSWER);
    struct lane lane = {.job = job, .seq = -1, .n_done = 1, .n_prompt = 1, .n_tokens = 1};
    kvant_token *ids, prompt = 1;
    size_t n;
    struct kvant_error err;
    assert_non_null(job);
    job->request = request;
    job->state.n_left = 1;
    lane.tokens = &prompt;
    answer_begin(&server, &lane);
    assert_int_equal(tokens_of_text(server.model, text, strlen(text), 0, &ids, &n, &err), KVANT_OK);
    for (size_t i = 0; i < n && !lane.finish; i++) {
        lane.n_predicted++;
        answer_token(&server, &lane, ids[i], NULL);
        if (!lane.finish) answer_stream(&server, &lane);
    }
    if (!lane.finish) lane.finish = "length";
    answer_end(&server, &lane);
    answer_clear(&lane);
    assert_true(job->finished);
    json_t *out = request.stream ? json_stringn(job->out, job->n_out)
                                 : json_loadb(job->out, job->n_out, 0, NULL);
    assert_non_null(out);
    free(ids);
    job->request = (struct request){0}; /* its texts are literals */
    job_release(job);
    job_release(job);
    return out;
}

static const struct request chat = {.kind = API_CHAT, .id = "chatcmpl-0123456789", .n_choices = 1,
                                    .n_prompts = 1,
                                    .split_thinking = true, .think_mode = "template"};

static void expect(struct request request, const char *text, const char *content, const char *thought,
                   const char *finish)
{
    json_t *out = answer(request, text), *choice = json_array_get(json_object_get(out, "choices"), 0);
    json_t *message = json_object_get(choice, "message");
    const char *got = json_string_value(json_object_get(message, "content"));
    const char *got_thought = json_string_value(json_object_get(message, "reasoning_content"));
    if (!got || strcmp(got, content) != 0)
        print_error("%s: content |%s|, not |%s|\n", text, got ? got : "", content);
    assert_true(got && strcmp(got, content) == 0);
    if (thought) assert_string_equal(got_thought ? got_thought : "", thought);
    else assert_null(got_thought);
    assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")), finish);
    json_decref(out);
    /* streamed, it must come to the same */
    request.stream = true;
    out = answer(request, text);
    char *copy = strdup(json_string_value(out)), *rest = copy, *event;
    char whole[2][4096] = {"", ""};
    while ((event = strstr(rest, "data: {")) != NULL) {
        rest = strstr(event, "\n\n");
        json_t *value = json_loadb(event + 6, (size_t)(rest - event - 6), 0, NULL);
        json_t *delta = json_object_get(json_array_get(json_object_get(value, "choices"), 0), "delta");
        const char *part = json_string_value(json_object_get(delta, "content"));
        const char *more = json_string_value(json_object_get(delta, "reasoning_content"));
        if (part) strcat(whole[0], part);
        if (more) strcat(whole[1], more);
        json_decref(value);
    }
    assert_string_equal(whole[0], content);
    assert_string_equal(whole[1], thought ? thought : "");
    assert_non_null(strstr(rest, "[DONE]"));
    free(copy);
    json_decref(out);
}

static void test_thoughts(void **state)
{
    (void)state;
    struct request inside = chat, plain = chat;
    inside.thinking = true;
    plain.split_thinking = false;
    expect(chat, "Hello <think> there", "Hello <think> there", NULL, "length");
    expect(chat, "<think>\nhm, a < b\n</think>\n\nYes.", "Yes.", "\nhm, a < b\n", "length");
    expect(chat, " \n<think>never closed", "", "never closed", "length");
    expect(chat, "<thin", "<thin", NULL, "length");
    expect(inside, "so be it</think>ok", "ok", "so be it", "length");
    expect(inside, "so </thi be it", "", "so </thi be it", "length");
    expect(plain, "<think>a</think>b", "<think>a</think>b", NULL, "length");
    expect(chat, "", "", NULL, "length");
}

static void test_stops(void **state)
{
    (void)state;
    struct request r = chat;
    r.stops[0] = (char *)(uintptr_t)"END";
    r.stops[1] = (char *)(uintptr_t)"\n\n";
    r.n_stops = 2;
    expect(r, "one two END three", "one two ", NULL, "stop");
    expect(r, "one\n\ntwo END", "one", NULL, "stop");
    expect(r, "EN EN ENEND", "EN EN EN", NULL, "stop");
    expect(r, "one EN", "one EN", NULL, "length");
    expect(r, "\xc3\xa9 \xf0\x9f\xa6\x99 END", "\xc3\xa9 \xf0\x9f\xa6\x99 ", NULL, "stop");
}

static void test_tools(void **state)
{
    (void)state;
    struct request r = chat;
    r.has_tools = true;
    json_t *out = answer(r, "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": "
                            "1}}\n</tool_call>\n<tool_call>{\"name\":"
                            "\"g\",\"arguments\":{}}</tool_call>");
    json_t *choice = json_array_get(json_object_get(out, "choices"), 0),
           *message = json_object_get(choice, "message");
    json_t *calls = json_object_get(message, "tool_calls"),
           *function = json_object_get(json_array_get(calls, 0), "function");
    assert_int_equal(json_array_size(calls), 2);
    assert_string_equal(json_string_value(json_object_get(message, "content")), "I look.");
    assert_string_equal(json_string_value(json_object_get(function, "name")), "f");
    assert_string_equal(json_string_value(json_object_get(function, "arguments")), "{\"a\":1}");
    assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")), "tool_calls");
    json_decref(out);
    r.one_call = true;
    out = answer(r, "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call> "
                    "<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>");
    choice = json_array_get(json_object_get(out, "choices"), 0);
    assert_int_equal(json_array_size(json_object_get(json_object_get(choice, "message"), "tool_calls")), 1);
    json_decref(out);
    r.one_call = false;
    expect(r, "<tool_call>no json</tool_call>", "<tool_call>no json</tool_call>", NULL, "length");
    r.stream = true;
    out = answer(r, "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":1}}</tool_call>");
    assert_non_null(strstr(json_string_value(out), "\"tool_calls\":[{"));
    assert_null(strstr(json_string_value(out), "\"content\":\"<tool_call>"));
    json_decref(out);
}

/* Sequences kept, found by their longest common beginning, and dropped, the one that was not used for longest
 * first. */
static void test_prefixes(void **state)
{
    (void)state;
    struct kvant_session *session;
    struct kvant_error err;
    struct prefixes p = {0};
    size_t n;
    assert_int_equal(kvant_session_open(&session, server.model, NULL, &err), KVANT_OK);
    for (int i = 0; i < 4; i++) {
        struct prefix entry = {.slot = i, .n_tokens = 5, .tokens = calloc(5, sizeof(kvant_token))};
        for (int k = 0; k < 5; k++) entry.tokens[k] = k < 2 ? k : 10 * i + k;
        assert_int_equal(kvant_sequence_open(session, server.plans[0].plan, 64, &entry.seq, &err), KVANT_OK);
        prefixes_add(&p, session, entry, -1, 3);
    }
    assert_int_equal(p.n, 3); /* of slots 1, 2, 3 */
    assert_null(prefixes_of_slot(&p, 0));
    const kvant_token like_two[] = {0, 1, 22, 23, 99}, other[] = {7};
    struct prefix *found = prefixes_find(&p, 0, like_two, 5, &n);
    assert_non_null(found);
    assert_int_equal(found->slot, 2);
    assert_int_equal(n, 4);
    assert_null(prefixes_find(&p, 1, like_two, 5, &n));
    assert_null(prefixes_find(&p, 0, other, 1, &n));
    assert_int_equal(prefixes_erase(&p, session, 2), 5);
    assert_int_equal(p.n, 2);
    assert_true(prefixes_evict(&p, session));
    assert_non_null(prefixes_of_slot(&p, 3));
    struct prefix longer = {.slot = 9, .n_tokens = 7, .tokens = calloc(7, sizeof(kvant_token))};
    memcpy(longer.tokens, prefixes_of_slot(&p, 3)->tokens, 5 * sizeof(kvant_token));
    assert_int_equal(kvant_sequence_open(session, server.plans[0].plan, 64, &longer.seq, &err), KVANT_OK);
    prefixes_add(&p, session, longer, -1, 3); /* takes the place of what it begins with */
    assert_int_equal(p.n, 1);
    prefixes_close(&p, session);
    kvant_session_close(session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_thoughts), cmocka_unit_test(test_stops), cmocka_unit_test(test_tools),
        cmocka_unit_test(test_prefixes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
