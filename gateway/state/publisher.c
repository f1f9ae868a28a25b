// What is due and when; see publisher.h.
#include "gateway/state/publisher.h"

#include <stdlib.h>

#include "gateway/base/memory.h"

#define INTERVAL 100 // milliseconds between attempts to publish what is due

struct entry {
    publish_fn *publish;
    void *context;
};

struct publisher {
    uv_timer_t timer; // runs while something is due
    uv_timer_t later; // runs until something becomes due
    bool open;
    bool woken; // since this round of publishing began
    struct entry *entries;
    size_t count;
};

struct publisher *publisher_new(uv_loop_t *loop) {
    struct publisher *publisher = must_have(calloc(1, sizeof *publisher));
    uv_timer_init(loop, &publisher->timer);
    uv_timer_init(loop, &publisher->later);
    publisher->timer.data = publisher->later.data = publisher;
    return publisher;
}

void publisher_stop(struct publisher *publisher) {
    uv_close((uv_handle_t *)&publisher->timer, NULL);
    uv_close((uv_handle_t *)&publisher->later, NULL);
}

void publisher_free(struct publisher *publisher) {
    free(publisher->entries);
    free(publisher);
}

void publisher_add(struct publisher *publisher, publish_fn *publish, void *context) {
    size_t count = publisher->count + 1;
    publisher->entries = must_have(realloc(publisher->entries, count * sizeof *publisher->entries));
    publisher->entries[publisher->count] = (struct entry){publish, context};
    publisher->count = count;
}

bool publisher_is_open(const struct publisher *publisher) {
    return publisher->open;
}

bool publisher_publish(struct publisher *publisher) {
    bool all = publisher->open;
    for (size_t i = 0; publisher->open && i < publisher->count; i++)
        all = publisher->entries[i].publish(publisher->entries[i].context) && all;
    return all;
}

// Publishing may make something due again, of a part that has had its turn: then there is another round.
static void on_timer(uv_timer_t *timer) {
    struct publisher *publisher = timer->data;
    publisher->woken = false;
    if (publisher_publish(publisher) && !publisher->woken)
        uv_timer_stop(timer);
}

void publisher_wake(struct publisher *publisher) {
    uv_handle_t *handle = (uv_handle_t *)&publisher->timer;
    publisher->woken = true;
    if (publisher->open && !uv_is_active(handle) && !uv_is_closing(handle))
        uv_timer_start(&publisher->timer, on_timer, INTERVAL, INTERVAL);
}

static void on_later(uv_timer_t *timer) {
    if (!publisher_publish(timer->data))
        publisher_wake(timer->data);
}

// Never more often than what is due: many devices become due one after another.
void publisher_wake_in(struct publisher *publisher, uint64_t milliseconds) {
    uv_timer_t *later = &publisher->later;
    uint64_t wait = milliseconds > INTERVAL ? milliseconds : INTERVAL;
    bool sooner = !uv_is_active((uv_handle_t *)later) || uv_timer_get_due_in(later) > wait;
    if (sooner && !uv_is_closing((uv_handle_t *)later))
        uv_timer_start(later, on_later, wait, 0);
}

// What has become due until now is looked at.
void publisher_open(struct publisher *publisher) {
    publisher->open = true;
    publisher_wake(publisher);
}
