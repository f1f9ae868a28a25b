// How long a client may take to ask; see deadline.h. Those that may ask stand in a list, who has been longest first.
#include "gateway/web/deadline.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <utlist.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"

struct asker {
    struct deadlines *deadlines;
    int socket;
    bool listed;
    uint64_t since; // by uv_now()
    struct asker *prev, *next;
};

struct deadlines {
    uv_timer_t timer; // the deadline of the first one
    uint64_t time;
    struct asker *list;
};

static void on_timer(uv_timer_t *timer);

static void set_timer(struct deadlines *deadlines) {
    uint64_t now = uv_now(deadlines->timer.loop);
    if (deadlines->list == NULL || uv_is_closing((uv_handle_t *)&deadlines->timer))
        return;
    uint64_t until = deadlines->list->since + deadlines->time;
    uv_timer_start(&deadlines->timer, on_timer, until > now ? until - now : 0, 0);
}

static void unlist(struct asker *asker) {
    if (asker->listed)
        DL_DELETE(asker->deadlines->list, asker);
    asker->listed = false;
}

static void on_timer(uv_timer_t *timer) {
    struct deadlines *deadlines = timer->data;
    struct asker *first;
    while ((first = deadlines->list) != NULL && uv_now(timer->loop) - first->since >= deadlines->time) {
        log_debug("http: a request was not whole in time");
        shutdown(first->socket, SHUT_RDWR);
        unlist(first);
    }
    set_timer(deadlines);
}

void asker_may_ask(struct asker *asker) {
    if (asker == NULL)
        return;
    unlist(asker);
    asker->since = uv_now(asker->deadlines->timer.loop);
    DL_APPEND(asker->deadlines->list, asker);
    asker->listed = true;
    if (asker->deadlines->list ==
        asker) // otherwise the timer is for another, or comes too early and looks again
        set_timer(asker->deadlines);
}

void asker_is_whole(struct asker *asker) {
    if (asker != NULL)
        unlist(asker);
}

struct asker *asker_new(struct deadlines *deadlines, int socket) {
    struct asker *asker = must_have(calloc(1, sizeof *asker));
    asker->deadlines = deadlines;
    asker->socket = socket;
    asker_may_ask(asker);
    return asker;
}

void asker_gone(struct asker *asker) {
    unlist(asker);
    free(asker);
}

struct deadlines *deadlines_new(uv_loop_t *loop, uint64_t milliseconds) {
    struct deadlines *deadlines = must_have(calloc(1, sizeof *deadlines));
    uv_timer_init(loop, &deadlines->timer);
    deadlines->timer.data = deadlines;
    deadlines->time = milliseconds;
    return deadlines;
}

void deadlines_stop(struct deadlines *deadlines) {
    uv_close((uv_handle_t *)&deadlines->timer, NULL);
}

void deadlines_free(struct deadlines *deadlines) {
    free(deadlines);
}
