// A configuration that has changed; see reload.h.
#include "gateway/run/reload.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/config/config.h"
#include "gateway/config/reload.h"

#define PORTION 500 // devices, a few milliseconds at most

struct reload {
    struct reload_parts parts;
    uv_work_t work;
    uv_idle_t idle;               // runs while portions are left
    struct config *fresh;         // as read; NULL: it has faults
    char *faults;                 // a line each
    struct registry_index *index; // that was made, or is to be freed
    bool busy, stopped;
    bool again;       // the next one is asked for
    bool at_sessions; // the devices have all been looked at
};

static void begin_next(struct reload *reload);

static void end_one(struct reload *reload) {
    reload->busy = false;
    begin_next(reload);
}

// --- the portions ---

static void free_on_thread(uv_work_t *work) {
    struct reload *reload = work->data;
    registry_index_free(reload->index);
    config_free(reload->fresh);
    reload->index = NULL;
    reload->fresh = NULL;
}

static void on_freed(uv_work_t *work, int status) {
    end_one(work->data);
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

// --- reading ---

static void note_fault(void *context, const char *path, const char *problem) {
    struct reload *reload = context;
    const char *before = reload->faults != NULL ? reload->faults : "";
    char *longer = text_format("%s%s: %s\n", before, path, problem);
    free(reload->faults);
    reload->faults = longer;
}

static void read_on_thread(uv_work_t *work) {
    struct reload *reload = work->data;
    reload->fresh = config_load(reload->parts.config->file, note_fault, reload);
    if (reload->fresh == NULL)
        return;
    reload->index = registry_index_new(reload->fresh->devices);
    reload->fresh->devices = NULL;
}

static void log_faults(struct reload *reload) {
    char *rest = reload->faults, *line;
    while (rest != NULL && (line = strsep(&rest, "\n")) != NULL)
        if (*line != '\0')
            log_error("%s", line);
    free(reload->faults);
    reload->faults = NULL;
    log_error("the configuration is unchanged");
}

static void take(struct reload *reload) {
    char *restart;
    config_take(reload->parts.config, reload->fresh, &restart);
    reload->parts.taken(reload->parts.context, restart, registry_index_count(reload->index));
    free(restart);
    reload->index = registry_swap(reload->parts.registry, reload->index);
    reload->at_sessions = false;
    state_reload_begin(reload->parts.state);
    uv_idle_start(&reload->idle, on_idle);
}

static void on_read(uv_work_t *work, int status) {
    struct reload *reload = work->data;
    if (reload->stopped)
        return;
    if (reload->fresh != NULL) {
        take(reload);
        return;
    }
    log_faults(reload);
    end_one(reload);
}

static void begin_next(struct reload *reload) {
    if (reload->busy || reload->stopped || !reload->again)
        return;
    reload->busy = true;
    reload->again = false;
    uv_queue_work(reload->parts.loop, &reload->work, read_on_thread, on_read);
}

void reload_begin(struct reload *reload) {
    reload->again = true;
    begin_next(reload);
}

// --- beginning, ending ---

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
    registry_index_free(reload->index);
    config_free(reload->fresh);
    free(reload->faults);
    free(reload);
}
