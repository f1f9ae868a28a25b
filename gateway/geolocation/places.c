// Places by surroundings; see places.h.
#include "gateway/geolocation/places.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"
#include "gateway/base/table.h"
#include "gateway/broker/store.h"

#define HOLDS          (30 * 86400) // seconds that a place holds
#define NOWHERE_HOLDS  (6 * 3600)   // and that there is none
#define USED_STEP      86400        // seconds after which the store is told that one was used again
#define WRITE_INTERVAL 5000         // milliseconds until what has changed is written: nothing depends on it
#define PORTION        250 // entries that are written, and that are dropped, at once: some 10 ms of the disk
#define NEXT_PORTION   100 // milliseconds until the next ones: the store has others to write for
#define ENTRY_MAX      128 // bytes of a row's text

struct entry {
    uint64_t key;
    struct location place;
    bool found;
    bool due;             // it is among those to be written
    int64_t asked, used;  // Unix seconds
    int64_t used_written; // as the store has it; 0: it does not have the entry
    UT_hash_handle hh;
    struct entry *prev, *next; // among those to be written
};

struct places {
    struct store *store;
    size_t most;
    struct entry *entries; // in the order in which they were used, the one to go first in front
    struct entry *due;     // those to be written
    struct entry *gone;    // that are forgotten, and only take memory
    bool stored;           // the store may have some
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
    places->stored = true;
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

static void mark_due(struct places *places, struct entry *entry) {
    if (!entry->due)
        DL_APPEND(places->due, entry);
    entry->due = true;
}

static void mark_written(struct places *places, struct entry *entry) {
    if (entry->due)
        DL_DELETE(places->due, entry);
    entry->due = false;
}

static void forget_first(struct places *places) {
    struct entry *entry = places->entries;
    if (entry->used_written != 0)
        store_delete_place(places->store, (int64_t)entry->key);
    mark_written(places, entry);
    HASH_DEL(places->entries, entry);
    free(entry);
}

// Returns whether any are left.
static bool free_some(struct entry **entries, size_t count) {
    struct entry *entry;
    while ((entry = *entries) != NULL && count-- > 0) {
        HASH_DEL(*entries, entry);
        free(entry);
    }
    return *entries != NULL;
}

// At once, however many they are; their memory is given back later.
static void forget_all(struct places *places) {
    if (places->stored)
        store_delete_places(places->store);
    places->stored = false;
    places->due = NULL;
    if (places->gone == NULL) {
        places->gone = places->entries;
        places->entries = NULL;
    }
    free_some(&places->entries, SIZE_MAX); // the few that have come since the last time
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
    if (HASH_COUNT(places->entries) >= places->most)
        forget_first(places);
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

static void write_some(struct places *places, size_t count) {
    struct entry *entry;
    while ((entry = places->due) != NULL && count-- > 0) {
        mark_written(places, entry);
        write_entry(places, entry);
    }
}

static bool are_too_many(const struct places *places) {
    return HASH_COUNT(places->entries) > places->most;
}

static void forget_some(struct places *places) {
    if (places->most == 0)
        forget_all(places);
    for (size_t i = 0; i < PORTION && are_too_many(places); i++)
        forget_first(places);
}

// A disk that takes nothing gets no more to do; they stay due.
static void on_timer(uv_timer_t *timer) {
    struct places *places = timer->data;
    bool more = free_some(&places->gone, PORTION);
    if (store_is_writable(places->store)) {
        forget_some(places);
        write_some(places, PORTION);
        more = more || are_too_many(places) || places->due != NULL;
    }
    uv_timer_start(timer, on_timer, more ? NEXT_PORTION : WRITE_INTERVAL, 0);
}

void places_bound(struct places *places, size_t most) {
    places->most = most;
    forget_some(places);
    uv_timer_start(&places->timer, on_timer, NEXT_PORTION, 0);
}

static int compare_use(const struct entry *one, const struct entry *other) {
    return (one->used > other->used) - (one->used < other->used);
}

static void load_one(void *context, int64_t number, const char *text) {
    struct places *places = context;
    places->stored = true;
    if (places->most == 0)
        return;
    struct entry *entry = must_have(calloc(1, sizeof *entry));
    entry->key = (uint64_t)number;
    read_entry(text, entry);
    HASH_ADD(hh, places->entries, key, sizeof entry->key, entry);
}

struct places *places_new(uv_loop_t *loop, struct store *store, size_t most) {
    struct places *places = must_have(calloc(1, sizeof *places));
    places->store = store;
    places->most = most;
    store_each_place(store, load_one, places); // what is more goes later: others still read the store
    HASH_SORT(places->entries, compare_use);
    uv_timer_init(loop, &places->timer);
    places->timer.data = places;
    uv_timer_start(&places->timer, on_timer, WRITE_INTERVAL, 0);
    uv_unref((uv_handle_t *)&places->timer);
    return places;
}

void places_stop(struct places *places) {
    if (places->most == 0)
        forget_all(places);
    if (store_is_writable(places->store))
        write_some(places, SIZE_MAX);
    uv_close((uv_handle_t *)&places->timer, NULL);
}

void places_free(struct places *places) {
    free_some(&places->entries, SIZE_MAX);
    free_some(&places->gone, SIZE_MAX);
    free(places);
}
