// A registry that has changed; see reload.h.
#include "gateway/run/reload.h"

#include <stdlib.h>

#include "gateway/base/memory.h"

#define PORTION 500 // devices, a few milliseconds at most

struct reload {
    struct reload_parts parts;
    uv_work_t work;
    uv_idle_t idle;                // runs while portions are left
    struct config_devices *wanted; // the next ones, or NULL
    struct config_devices *taken;  // whose index is made
    struct registry_index *index;  // that was made, or is to be freed
    bool busy, stopped;
    bool at_sessions; // the devices have all been looked at
};

static void begin_next(struct reload *reload);

static void free_on_thread(uv_work_t *work) {
    struct reload *reload = work->data;
    registry_index_free(reload->index);
    reload->index = NULL;
}

static void on_freed(uv_work_t *work, int status) {
    struct reload *reload = work->data;
    reload->busy = false;
    begin_next(reload);
}

static void on_idle(uv_idle_t *idle) {
    struct reload *reload = idle->data;
    if (!reload->at_sessions) {
        reload->at_sessions = state_reload_some(reload->parts.state, PORTION);
        if (reload->at_sessions)
            sessions_reload_begin(reload->parts.sessions);
    } else if (sessions_reload_some(reload->parts.sessions,
                                    PORTION)) { // they pointed to the old names until now
        uv_idle_stop(idle);
        uv_queue_work(idle->loop, &reload->work, free_on_thread, on_freed);
    }
}

static void index_on_thread(uv_work_t *work) {
    struct reload *reload = work->data;
    reload->index = registry_index_new(reload->taken);
}

static void on_indexed(uv_work_t *work, int status) {
    struct reload *reload = work->data;
    if (reload->stopped)
        return;
    reload->index = registry_swap(reload->parts.registry, reload->index);
    reload->at_sessions = false;
    state_reload_begin(reload->parts.state);
    uv_idle_start(&reload->idle, on_idle);
}

static void begin_next(struct reload *reload) {
    if (reload->busy || reload->stopped || reload->wanted == NULL)
        return;
    reload->busy = true;
    reload->taken = reload->wanted;
    reload->wanted = NULL;
    uv_queue_work(reload->parts.loop, &reload->work, index_on_thread, on_indexed);
}

void reload_begin(struct reload *reload, struct config_devices *devices) {
    config_devices_free(reload->wanted);
    reload->wanted = devices;
    begin_next(reload);
}

struct reload *reload_new(const struct reload_parts *parts) {
    struct reload *reload = must_have(calloc(1, sizeof *reload));
    reload->parts = *parts;
    reload->work.data = reload->idle.data = reload;
    uv_idle_init(parts->loop, &reload->idle);
    return reload;
}

void reload_stop(struct reload *reload) {
    reload->stopped = true;
    uv_close((uv_handle_t *)&reload->idle, NULL);
}

void reload_free(struct reload *reload) {
    config_devices_free(reload->wanted);
    registry_index_free(reload->index);
    free(reload);
}
