// Removing devices; see clearing.h.
#include "gateway/state/clearing.h"

#include <stdlib.h>
#include <uthash.h>

#include "gateway/base/memory.h"

#define INTERVAL   100   // milliseconds between looks at the time
#define CLEAR_TIME 1000  // milliseconds that a broker is given to say what it retains of a device's telemetry
#define GONE_MAX   10000 // devices that are remembered as removed
#define CLEAR_MAX  20    // devices for which it is asked at once, so that its answers do not overwhelm it

// A device that is being removed.
struct leaving {
    int64_t device_id;
    bool removed;        // what was retained for it, except telemetry
    uint64_t asked;      // for its telemetry: when, by uv_now(); 0: not yet
    uint32_t generation; // in which it was removed
    UT_hash_handle hh;
};

struct clearing {
    const struct bus *bus;
    struct mqtt_asker asker;
    struct publisher *publisher;
    struct generation *generation;
    clearing_remove_fn *remove;
    void *context;
    uv_timer_t timer;        // runs while devices are being removed
    struct leaving *leaving; // by id
    size_t unremoved;        // of these
    struct leaving *gone;    // by id, the longest first: a broker that falls back has them again
};

static struct leaving *find(const struct clearing *clearing, int64_t device_id) {
    struct leaving *leaving;
    HASH_FIND(hh, clearing->leaving, &device_id, sizeof device_id, leaving);
    return leaving;
}

bool clearing_is_under_way(const struct clearing *clearing, int64_t device_id) {
    return find(clearing, device_id) != NULL;
}

bool clearing_is_clear(const struct clearing *clearing) {
    return clearing->unremoved == 0;
}

// --- all but telemetry ---

// As far as the broker keeps up: a registry may lose all its devices at once.
static bool remove_devices(void *context) {
    struct clearing *clearing = context;
    struct leaving *leaving, *next;
    HASH_ITER(hh, clearing->leaving, leaving, next) {
        if (clearing->unremoved == 0 || !bus_keeps_up(clearing->bus))
            break;
        if (leaving->removed)
            continue;
        leaving->removed = true;
        leaving->generation = generation_write(clearing->generation);
        clearing->unremoved--;
        clearing->remove(clearing->context, leaving->device_id);
    }
    return clearing->unremoved == 0;
}

// --- telemetry ---

static const char *telemetry_filter(const struct clearing *clearing, int64_t device_id,
                                    char filter[TOPIC_MAX]) {
    return bus_topic(clearing->bus, filter, TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_TELEMETRY "+",
                     (long long)device_id);
}

static void ask(struct clearing *clearing, struct leaving *leaving) {
    char filter[TOPIC_MAX];
    if (clearing->asker.subscribe(clearing->asker.context,
                                  telemetry_filter(clearing, leaving->device_id, filter)))
        leaving->asked = uv_now(clearing->timer.loop);
}

static void drop_gone(struct clearing *clearing, struct leaving *gone) {
    HASH_DEL(clearing->gone, gone);
    free(gone);
}

static void drop_gone_id(struct clearing *clearing, int64_t device_id) {
    struct leaving *gone;
    HASH_FIND(hh, clearing->gone, &device_id, sizeof device_id, gone);
    if (gone != NULL)
        drop_gone(clearing, gone);
}

static void remember(struct clearing *clearing, struct leaving *leaving) {
    drop_gone_id(clearing, leaving->device_id);
    HASH_ADD(hh, clearing->gone, device_id, sizeof leaving->device_id, leaving);
    if (HASH_COUNT(clearing->gone) > GONE_MAX)
        drop_gone(clearing, clearing->gone);
}

static void end(struct clearing *clearing, struct leaving *leaving) {
    char filter[TOPIC_MAX];
    if (leaving->asked != 0)
        clearing->asker.unsubscribe(clearing->asker.context,
                                    telemetry_filter(clearing, leaving->device_id, filter));
    HASH_DEL(clearing->leaving, leaving);
    remember(clearing, leaving);
}

static void go_on(struct clearing *clearing) {
    struct leaving *leaving, *next;
    uint64_t now = uv_now(clearing->timer.loop);
    unsigned asked = 0;
    HASH_ITER(hh, clearing->leaving, leaving, next) {
        if (asked++ == CLEAR_MAX || !leaving->removed)
            break;
        if (leaving->asked == 0)
            ask(clearing, leaving);
        else if (now - leaving->asked > CLEAR_TIME)
            end(clearing, leaving);
    }
}

static void on_timer(uv_timer_t *timer) {
    struct clearing *clearing = timer->data;
    go_on(clearing);
    if (clearing->leaving == NULL)
        uv_timer_stop(timer);
}

// --- what others call ---

static void start_timer(struct clearing *clearing) {
    uv_handle_t *handle = (uv_handle_t *)&clearing->timer;
    if (!uv_is_active(handle) && !uv_is_closing(handle))
        uv_timer_start(&clearing->timer, on_timer, INTERVAL, INTERVAL);
}

void clearing_begin(struct clearing *clearing, int64_t device_id) {
    struct leaving *leaving = find(clearing, device_id);
    if (leaving == NULL) {
        leaving = must_have(calloc(1, sizeof *leaving));
        leaving->device_id = device_id;
        leaving->removed = true;
        HASH_ADD(hh, clearing->leaving, device_id, sizeof leaving->device_id, leaving);
    }
    clearing->unremoved += leaving->removed;
    leaving->removed = false;
    leaving->asked = 0;
    publisher_wake(clearing->publisher);
    start_timer(clearing);
}

void clearing_restore(struct clearing *clearing, struct generation_span lost) {
    struct leaving *gone, *next;
    HASH_ITER(hh, clearing->gone, gone, next) {
        int64_t device_id = gone->device_id;
        if (gone->generation <= lost.after)
            continue;
        drop_gone(clearing, gone);
        clearing_begin(clearing, device_id);
    }
}

void clearing_link_down(struct clearing *clearing) {
    struct leaving *leaving, *next;
    HASH_ITER(hh, clearing->leaving, leaving, next) {
        leaving->asked = 0;
    }
}

struct clearing *clearing_new(uv_loop_t *loop, const struct bus *bus, const struct mqtt_asker *asker,
                              struct publisher *publisher, struct generation *generation,
                              clearing_remove_fn *remove, void *context) {
    struct clearing *clearing = must_have(calloc(1, sizeof *clearing));
    clearing->bus = bus;
    clearing->asker = *asker;
    clearing->publisher = publisher;
    clearing->generation = generation;
    clearing->remove = remove;
    clearing->context = context;
    uv_timer_init(loop, &clearing->timer);
    clearing->timer.data = clearing;
    publisher_add(publisher, remove_devices, clearing);
    return clearing;
}

static void end_all(struct clearing *clearing) {
    while (clearing->leaving != NULL)
        end(clearing, clearing->leaving);
    clearing->unremoved = 0;
}

void clearing_stop(struct clearing *clearing) {
    uv_close((uv_handle_t *)&clearing->timer, NULL);
    end_all(clearing);
}

void clearing_free(struct clearing *clearing) {
    while (clearing->gone != NULL)
        drop_gone(clearing, clearing->gone);
    free(clearing);
}
