// Topics of ours that somebody else has changed; see guard.h.
#include "gateway/state/guard.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "gateway/base/memory.h"

#define INTERVAL 1000 // milliseconds between rounds
#define SOON     100  // milliseconds until the first, in which our own newer message may come

struct wrong {
    UT_hash_handle hh;
    char topic[];
};

struct guard {
    struct guard_handlers handlers;
    struct wrong *wrong;
    bool too_many;
    uint64_t last;    // round, by uv_now(); 0: none
    uv_timer_t timer; // runs until the next one
};

static struct wrong *find(const struct guard *guard, const char *topic) {
    struct wrong *wrong;
    HASH_FIND_STR(guard->wrong, topic, wrong);
    return wrong;
}

static void drop(struct guard *guard, struct wrong *wrong) {
    HASH_DEL(guard->wrong, wrong);
    free(wrong);
}

void guard_forget(struct guard *guard) {
    struct wrong *wrong, *next;
    HASH_ITER(hh, guard->wrong, wrong, next) {
        drop(guard, wrong);
    }
    guard->too_many = false;
}

static void on_round(uv_timer_t *timer) {
    struct guard *guard = timer->data;
    const struct wrong *wrong;
    bool any = guard->wrong != NULL || guard->too_many;
    if (guard->too_many)
        guard->handlers.all_again(guard->handlers.context);
    else
        for (wrong = guard->wrong; wrong != NULL; wrong = wrong->hh.next)
            guard->handlers.again(guard->handlers.context, wrong->topic);
    if (any)
        guard->last = uv_now(timer->loop);
    guard_forget(guard);
}

static void have_a_round(struct guard *guard) {
    uv_handle_t *handle = (uv_handle_t *)&guard->timer;
    uint64_t now = uv_now(handle->loop), next = guard->last + INTERVAL;
    if (!uv_is_active(handle) && !uv_is_closing(handle))
        uv_timer_start(&guard->timer, on_round, guard->last != 0 && next > now + SOON ? next - now : SOON, 0);
}

void guard_wrong(struct guard *guard, const char *topic) {
    size_t size = strlen(topic) + 1;
    have_a_round(guard);
    if (find(guard, topic) != NULL)
        return;
    if (HASH_COUNT(guard->wrong) >= GUARD_MAX) {
        guard->too_many = true;
        return;
    }
    struct wrong *wrong = must_have(malloc(sizeof *wrong + size));
    memcpy(wrong->topic, topic, size);
    HASH_ADD_STR(guard->wrong, topic, wrong);
}

void guard_right(struct guard *guard, const char *topic) {
    struct wrong *wrong = find(guard, topic);
    if (wrong != NULL)
        drop(guard, wrong);
}

struct guard *guard_new(uv_loop_t *loop, const struct guard_handlers *handlers) {
    struct guard *guard = must_have(calloc(1, sizeof *guard));
    guard->handlers = *handlers;
    uv_timer_init(loop, &guard->timer);
    guard->timer.data = guard;
    return guard;
}

void guard_stop(struct guard *guard) {
    uv_close((uv_handle_t *)&guard->timer, NULL);
}

void guard_free(struct guard *guard) {
    guard_forget(guard);
    free(guard);
}
