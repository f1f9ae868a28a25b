// The guard: topics that somebody else has changed are given again, once a second at most.
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "gateway/state/guard.h"

static uv_loop_t loop;
static struct guard *guard;
static unsigned again, all_again;
static char last[64];

static void on_again(void *context, const char *topic) {
    again++;
    snprintf(last, sizeof last, "%s", topic);
}

static void on_all_again(void *context) {
    all_again++;
}

static void set_up(void) {
    uv_loop_init(&loop);
    guard = guard_new(&loop, &(struct guard_handlers){.again = on_again, .all_again = on_all_again});
    again = all_again = 0;
}

static void tear_down(void) {
    guard_stop(guard);
    uv_run(&loop, UV_RUN_DEFAULT);
    guard_free(guard);
    cr_assert(uv_loop_close(&loop) == 0);
}

TestSuite(guard, .init = set_up, .fini = tear_down);

Test(guard, gives_again_what_is_wrong) {
    guard_wrong(guard, "devices/1");
    cr_assert_eq(again, 0, "our own newer message may be behind it");
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(again, 1);
    cr_assert_str_eq(last, "devices/1");
}

Test(guard, gives_nothing_again_that_is_right_after_all) {
    guard_wrong(guard, "devices/1");
    guard_right(guard, "devices/1");
    guard_right(guard, "devices/2");
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(again, 0);
}

// However often somebody writes.
Test(guard, gives_a_topic_again_once_a_second) {
    uint64_t begun = uv_now(&loop), end = begun + 3000;
    while (uv_now(&loop) < end) {
        guard_wrong(guard, "devices/1");
        uv_run(&loop, UV_RUN_ONCE);
    }
    cr_assert(again >= 2 && again <= 4, "%u times", again);
}

Test(guard, knows_nothing_any_more_after_the_link_was_lost) {
    guard_wrong(guard, "devices/1");
    guard_forget(guard);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(again, 0);
}

Test(guard, of_too_many_gives_everything_again) {
    char topic[32];
    for (int i = 0; i <= GUARD_MAX; i++) {
        snprintf(topic, sizeof topic, "devices/%d", i);
        guard_wrong(guard, topic);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(again, 0);
    cr_assert_eq(all_again, 1);
}
