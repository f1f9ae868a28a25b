// The longest turn of the loop within the last minute.
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "gateway/base/loop_lag.h"

Test(loop_lag, is_the_longest_of_the_last_minute) {
    struct loop_lag lag = {0};
    loop_lag_note(&lag, 100000, 7);
    loop_lag_note(&lag, 100400, 30);
    loop_lag_note(&lag, 120000, 12);
    cr_assert_eq(loop_lag_longest_at(&lag, 120000), 30);
    cr_assert_eq(loop_lag_longest_at(&lag, 159999), 30);
    cr_assert_eq(loop_lag_longest_at(&lag, 160000), 12);
    cr_assert_eq(loop_lag_longest_at(&lag, 500000), 0);
}

Test(loop_lag, is_said_once_a_minute_from_a_bound_on) {
    struct loop_lag lag = {0};
    cr_assert(!loop_lag_note(&lag, 100000, LOOP_LAG_WARNED));
    cr_assert(loop_lag_note(&lag, 100000, LOOP_LAG_WARNED + 1));
    cr_assert(!loop_lag_note(&lag, 159999, 5000));
    cr_assert(loop_lag_note(&lag, 160000, 5000));
}

// --- on a loop ---

static void stand_still(uv_timer_t *timer) {
    usleep(60000);
    uv_close((uv_handle_t *)timer, NULL);
}

// The first turn may begin late: it counts from the next one on.
static void begin(uv_timer_t *timer) {
    uv_timer_start(timer, stand_still, 1, 0);
}

static void end(uv_timer_t *timer) {
    uv_close((uv_handle_t *)timer, NULL);
}

// A turn counts from when the loop was woken; what it waits before that does not.
Test(loop_lag, does_not_count_waiting) {
    uv_loop_t loop;
    uv_timer_t timers[2];
    struct loop_lag lag;
    uv_loop_init(&loop);
    loop_lag_begin(&lag, &loop);
    uv_timer_init(&loop, &timers[0]);
    uv_timer_init(&loop, &timers[1]);
    uv_timer_start(&timers[0], begin, 1, 0);
    uv_timer_start(&timers[1], end, 2000, 0); // far longer than a turn takes, also on a busy machine
    uv_run(&loop, UV_RUN_DEFAULT);
    uint32_t longest = loop_lag_longest(&lag);
    cr_assert(longest >= 59 && longest < 1500, "%u ms", longest);
    loop_lag_end(&lag);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert(uv_loop_close(&loop) == 0);
}
