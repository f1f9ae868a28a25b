// Places by surroundings; see places.h.
#include "gateway/geolocation/places.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/table.h"
#include "gateway/broker/store.h"

#define HOLDS          (30 * 86400) // seconds that a place holds
#define NOWHERE_HOLDS  (6 * 3600)   // and that there is none
#define USED_STEP      86400        // seconds after which the store is told that one was used again
#define WRITE_INTERVAL 5000         // milliseconds until what has changed is written: nothing depends on it
#define ENTRY_MAX      128          // bytes of a row's text

struct entry {
    uint64_t key;
    struct location place;
    bool found;
    bool due;             // it is among those to be written
    int64_t asked, used;  // Unix seconds
    int64_t used_written; // as the store has it; 0: it does not have the entry
    UT_hash_handle hh;
};

struct places {
    struct store *store;
    size_t most;
    struct entry *entries; // in the order in which they were used, the one to go first in front
    uint64_t *due;         // keys of those to be written; some may be gone
    size_t due_count, due_capacity;
    uv_timer_t timer;
};

// --- rows ---

static void write_entry(struct places *places, struct entry *entry) {
    char text[ENTRY_MAX];
    snprintf(text, sizeof text, "%" PRId64 " %" PRId64 " %d %" PRId32 " %" PRId32 " %" PRIu32 " %d",
             entry->used, entry->asked, entry->found, entry->place.latitude, entry->place.longitude,
             entry->place.accuracy, entry->place.wifi);
    store_put_place(places->store, (int64_t)entry->key, text);
    entry->used_written = entry->used;
}

// One that is no row of this version says nothing, and goes first.
static void read_entry(const char *text, struct entry *entry) {
    int found = 0, wifi = 0;
    if (sscanf(text, "%" SCNd64 " %" SCNd64 " %d %" SCNd32 " %" SCNd32 " %" SCNu32 " %d", &entry->used,
               &entry->asked, &found, &entry->place.latitude, &entry->place.longitude, &entry->place.accuracy,
               &wifi) != 7)
        entry->used = entry->asked = found = 0;
    entry->found = found != 0;
    entry->place.wifi = wifi != 0;
    entry->used_written = entry->used != 0 ? entry->used : 1;
}

// --- what is remembered ---

static struct entry *find(struct places *places, uint64_t key) {
    struct entry *entry;
    HASH_FIND(hh, places->entries, &key, sizeof key, entry);
    return entry;
}

static void forget(struct places *places, struct entry *entry) {
    if (entry->used_written != 0)
        store_delete_place(places->store, (int64_t)entry->key);
    HASH_DEL(places->entries, entry);
    free(entry);
}

static void keep_last(struct places *places, size_t count) {
    while (HASH_COUNT(places->entries) > count)
        forget(places, places->entries);
}

void places_bound(struct places *places, size_t most) {
    places->most = most;
    keep_last(places, most);
}

static void mark_due(struct places *places, struct entry *entry) {
    if (entry->due)
        return;
    if (places->due_count == places->due_capacity) {
        places->due_capacity = places->due_capacity * 2 + 64;
        places->due = must_have(realloc(places->due, places->due_capacity * sizeof *places->due));
    }
    places->due[places->due_count++] = entry->key;
    entry->due = true;
}

static void use(struct places *places, struct entry *entry, int64_t now) {
    entry->used = now;
    HASH_DEL(places->entries, entry);
    HASH_ADD(hh, places->entries, key, sizeof entry->key, entry);
    if (now - entry->used_written >= USED_STEP)
        mark_due(places, entry);
}

// A clock that was set back makes nothing too old.
static bool holds(const struct entry *entry, int64_t now) {
    return now - entry->asked < (entry->found ? HOLDS : NOWHERE_HOLDS);
}

enum places_verdict places_find(struct places *places, uint64_t key, int64_t now, struct location *place) {
    struct entry *entry = find(places, key);
    if (entry == NULL || !holds(entry, now))
        return PLACES_UNKNOWN;
    use(places, entry, now);
    if (entry->found)
        *place = entry->place;
    return entry->found ? PLACES_FOUND : PLACES_NOWHERE;
}

static struct entry *find_or_make(struct places *places, uint64_t key) {
    struct entry *entry = find(places, key);
    if (entry != NULL)
        return entry;
    keep_last(places, places->most - 1);
    entry = must_have(calloc(1, sizeof *entry));
    entry->key = key;
    HASH_ADD(hh, places->entries, key, sizeof entry->key, entry);
    return entry;
}

void places_remember(struct places *places, uint64_t key, int64_t now, const struct location *place) {
    if (places->most == 0)
        return;
    struct entry *entry = find_or_make(places, key);
    entry->found = place != NULL;
    entry->place = place != NULL ? *place : (struct location){0};
    entry->asked = now;
    use(places, entry, now);
    mark_due(places, entry);
}

size_t places_count(const struct places *places) {
    return HASH_COUNT(places->entries);
}

// --- the store ---

// A disk that takes nothing gets no more to do; they stay due.
static void write_due(struct places *places) {
    if (!store_is_writable(places->store))
        return;
    for (size_t i = 0; i < places->due_count; i++) {
        struct entry *entry = find(places, places->due[i]);
        if (entry == NULL || !entry->due)
            continue;
        entry->due = false;
        write_entry(places, entry);
    }
    places->due_count = 0;
}

static void on_timer(uv_timer_t *timer) {
    struct places *places = timer->data;
    keep_last(places, places->most);
    write_due(places);
}

static int compare_use(const struct entry *one, const struct entry *other) {
    return (one->used > other->used) - (one->used < other->used);
}

static void load_one(void *context, int64_t number, const char *text) {
    struct places *places = context;
    struct entry *entry = must_have(calloc(1, sizeof *entry));
    entry->key = (uint64_t)number;
    read_entry(text, entry);
    HASH_ADD(hh, places->entries, key, sizeof entry->key, entry);
}

struct places *places_new(uv_loop_t *loop, struct store *store, size_t most) {
    struct places *places = must_have(calloc(1, sizeof *places));
    places->store = store;
    store_each_place(store, load_one, places);
    HASH_SORT(places->entries, compare_use);
    places->most = most; // what is more goes later: others still read the store
    uv_timer_init(loop, &places->timer);
    places->timer.data = places;
    uv_timer_start(&places->timer, on_timer, WRITE_INTERVAL, WRITE_INTERVAL);
    uv_unref((uv_handle_t *)&places->timer);
    return places;
}

void places_stop(struct places *places) {
    write_due(places);
    uv_close((uv_handle_t *)&places->timer, NULL);
}

void places_free(struct places *places) {
    struct entry *entry, *next;
    HASH_ITER(hh, places->entries, entry, next) {
        HASH_DEL(places->entries, entry);
        free(entry);
    }
    free(places->due);
    free(places);
}
