// How long the loop stands still; see loop_lag.h. libuv asks for the time when it has waited: so uv_now() behind that
// says when the turn began.
#include "gateway/base/loop_lag.h"

#include <string.h>

#include "gateway/base/log.h"

static uint64_t milliseconds(void) {
    return uv_hrtime() / 1000000;
}

// Forgets the seconds that are over.
static void advance(struct loop_lag *lag, uint64_t now) {
    uint64_t second = now / 1000;
    for (unsigned i = 0; lag->second < second && i < LOOP_LAG_SECONDS; i++)
        lag->longest[++lag->second % LOOP_LAG_SECONDS] = 0;
    lag->second = second;
}

bool loop_lag_note(struct loop_lag *lag, uint64_t now, uint32_t took) {
    advance(lag, now);
    uint32_t *longest = &lag->longest[lag->second % LOOP_LAG_SECONDS];
    *longest = took > *longest ? took : *longest;
    if (took <= LOOP_LAG_WARNED || (lag->said != 0 && now - lag->said < LOOP_LAG_SECONDS * 1000))
        return false;
    lag->said = now;
    return true;
}

uint32_t loop_lag_longest_at(struct loop_lag *lag, uint64_t now) {
    uint32_t longest = 0;
    advance(lag, now);
    for (unsigned i = 0; i < LOOP_LAG_SECONDS; i++)
        longest = lag->longest[i] > longest ? lag->longest[i] : longest;
    return longest;
}

uint32_t loop_lag_longest(struct loop_lag *lag) {
    return loop_lag_longest_at(lag, milliseconds());
}

static void on_woken(uv_check_t *check) {
    struct loop_lag *lag = check->data;
    lag->woken_at = uv_now(check->loop);
}

static void on_waits(uv_prepare_t *prepare) {
    struct loop_lag *lag = prepare->data;
    uint64_t now = milliseconds();
    if (lag->woken_at == 0)
        return;
    uint32_t took = now > lag->woken_at ? (uint32_t)(now - lag->woken_at) : 0;
    if (loop_lag_note(lag, now, took))
        log_warning("the gateway stood still for %u ms: nothing was read or sent meanwhile", took);
}

void loop_lag_begin(struct loop_lag *lag, uv_loop_t *loop) {
    memset(lag, 0, sizeof *lag);
    uv_check_init(loop, &lag->woken);
    uv_prepare_init(loop, &lag->waits);
    lag->woken.data = lag->waits.data = lag;
    uv_check_start(&lag->woken, on_woken);
    uv_prepare_start(&lag->waits, on_waits);
    uv_unref((uv_handle_t *)&lag->woken);
    uv_unref((uv_handle_t *)&lag->waits);
}

void loop_lag_end(struct loop_lag *lag) {
    uv_close((uv_handle_t *)&lag->woken, NULL);
    uv_close((uv_handle_t *)&lag->waits, NULL);
}
