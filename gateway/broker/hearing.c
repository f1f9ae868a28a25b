// What is heard of others; see hearing.h.
#include "gateway/broker/hearing.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "gateway/base/libmosquitto.h"
#include "gateway/base/memory.h"

struct heard {
    char *filter;
    bool wanted;
    bool there;   // in the session at the broker
    bool unsure;  // whether it is: the connection ended before the answer came
    bool refused; // on this connection, and not to be asked for now
    bool tried;   // it was refused before
    bool waits;   // in todo
    bool asked;   // in the portion that is under way
    bool rests;   // in resting
    struct heard *prev, *next;
    UT_hash_handle hh; // by filter
};

struct hearing {
    struct hearing_handlers handlers;
    struct heard *by_filter;
    struct heard *todo;    // those that may have to be asked for, or no longer
    struct heard *resting; // those that were refused and are asked for again later, the first one first
    struct heard *portion[HEARING_PORTION];
    size_t count; // of portion, which is under way; 0: none is
    bool subscribing;
    int mid;
    bool up, began;
    bool inherited; // the session may have filters of an earlier run
};

struct hearing *hearing_new(const struct hearing_handlers *handlers) {
    struct hearing *hearing = must_have(calloc(1, sizeof *hearing));
    hearing->handlers = *handlers;
    return hearing;
}

static void forget(struct hearing *hearing, struct heard *heard) {
    if (heard->waits)
        DL_DELETE(hearing->todo, heard);
    if (heard->rests)
        DL_DELETE(hearing->resting, heard);
    HASH_DEL(hearing->by_filter, heard);
    free(heard->filter);
    free(heard);
}

void hearing_free(struct hearing *hearing) {
    while (hearing->by_filter != NULL)
        forget(hearing, hearing->by_filter);
    free(hearing);
}

// --- asking ---

static bool must_subscribe(const struct heard *heard) {
    return heard->wanted && (!heard->there || heard->unsure) && !heard->refused;
}

static bool must_unsubscribe(const struct heard *heard) {
    return !heard->wanted && (heard->there || heard->unsure);
}

static void look_at(struct hearing *hearing, struct heard *heard) {
    if (heard->waits || heard->asked)
        return;
    if (must_subscribe(heard) || must_unsubscribe(heard)) {
        heard->waits = true;
        DL_APPEND(hearing->todo, heard);
    } else if (!heard->wanted) {
        forget(hearing, heard);
    }
}

// The next of one kind.
static void fill_portion(struct hearing *hearing, bool (*must)(const struct heard *)) {
    struct heard *heard, *next;
    DL_FOREACH_SAFE(hearing->todo, heard, next) {
        if (hearing->count == HEARING_PORTION)
            return;
        if (!must(heard))
            continue;
        DL_DELETE(hearing->todo, heard);
        heard->waits = false;
        heard->asked = true;
        hearing->portion[hearing->count++] = heard;
    }
}

// Those for which it has become needless.
static void clear_front(struct hearing *hearing) {
    struct heard *heard;
    while ((heard = hearing->todo) != NULL && !must_subscribe(heard) && !must_unsubscribe(heard)) {
        DL_DELETE(hearing->todo, heard);
        heard->waits = false;
        look_at(hearing, heard);
    }
}

static void ask(struct hearing *hearing) {
    const struct hearing_handlers *handlers = &hearing->handlers;
    char *filters[HEARING_PORTION];
    if (!hearing->up || hearing->count > 0)
        return;
    clear_front(hearing);
    if (hearing->todo == NULL)
        return;
    hearing->subscribing = must_subscribe(hearing->todo);
    fill_portion(hearing, hearing->subscribing ? must_subscribe : must_unsubscribe);
    for (size_t i = 0; i < hearing->count; i++)
        filters[i] = hearing->portion[i]->filter;
    hearing->up = (hearing->subscribing ? handlers->subscribe : handlers->unsubscribe)(
        handlers->context, filters, hearing->count, &hearing->mid);
}

static void end_portion(struct hearing *hearing) {
    size_t count = hearing->count;
    hearing->count = 0;
    for (size_t i = 0; i < count; i++) {
        hearing->portion[i]->asked = false;
        look_at(hearing, hearing->portion[i]);
    }
}

// --- what is refused ---

static void rest(struct hearing *hearing, struct heard *heard) {
    heard->rests = true;
    DL_APPEND(hearing->resting, heard);
}

static void wake(struct hearing *hearing, struct heard *heard) {
    DL_DELETE(hearing->resting, heard);
    heard->rests = heard->refused = false;
}

// There may be many, which a broker that refuses the first ones refuses as well.
static void try_portion(struct hearing *hearing) {
    for (size_t i = 0; i < HEARING_PORTION && hearing->resting != NULL; i++) {
        struct heard *heard = hearing->resting;
        wake(hearing, heard);
        heard->tried = true;
        look_at(hearing, heard);
    }
}

void hearing_ask_again(struct hearing *hearing) {
    try_portion(hearing);
    ask(hearing);
}

// Returns whether it is granted after all.
static bool take_grant(struct hearing *hearing, struct heard *heard, int reason) {
    bool tried = heard->tried;
    heard->there = reason < 0x80;
    heard->refused = !heard->there;
    heard->tried = false;
    if (heard->refused && hearing->handlers.refused(hearing->handlers.context, heard->filter, reason))
        rest(hearing, heard);
    return tried && heard->there;
}

void hearing_answer(struct hearing *hearing, int mid, size_t count, const int *granted) {
    bool any = false;
    if (hearing->count == 0 || mid != hearing->mid || (granted != NULL) != hearing->subscribing)
        return;
    for (size_t i = 0; i < hearing->count; i++) {
        struct heard *heard = hearing->portion[i];
        heard->unsure = false;
        if (granted == NULL)
            heard->there = heard->refused = false;
        else if (take_grant(hearing, heard, i < count ? granted[i] : MQTT_RC_UNSPECIFIED))
            any = true;
    }
    end_portion(hearing);
    if (any)
        try_portion(hearing);
    ask(hearing);
}

// --- what is wanted ---

static struct heard *find(const struct hearing *hearing, const char *filter) {
    struct heard *heard;
    HASH_FIND_STR(hearing->by_filter, filter, heard);
    return heard;
}

static struct heard *find_or_make(struct hearing *hearing, const char *filter) {
    struct heard *heard = find(hearing, filter);
    if (heard != NULL)
        return heard;
    heard = must_have(calloc(1, sizeof *heard));
    heard->filter = must_have(strdup(filter));
    HASH_ADD_KEYPTR(hh, hearing->by_filter, heard->filter, strlen(heard->filter), heard);
    return heard;
}

void hearing_want(struct hearing *hearing, const char *filter) {
    struct heard *heard = find_or_make(hearing, filter);
    heard->wanted = true;
    look_at(hearing, heard);
    ask(hearing);
}

void hearing_drop(struct hearing *hearing, const char *filter) {
    struct heard *heard = find(hearing, filter);
    if (heard == NULL)
        return;
    heard->wanted = false;
    look_at(hearing, heard);
    ask(hearing);
}

void hearing_drop_inherited(struct hearing *hearing, const char *filter) {
    if (!hearing->inherited || find(hearing, filter) != NULL)
        return;
    find_or_make(hearing, filter)->there = true;
    hearing_drop(hearing, filter);
}

// --- the connection ---

void hearing_begin(struct hearing *hearing, bool resumed) {
    struct heard *heard, *next;
    hearing->up = true;
    hearing->inherited = resumed && (hearing->inherited || !hearing->began);
    hearing->began = true;
    HASH_ITER(hh, hearing->by_filter, heard, next) {
        heard->there = heard->there && resumed;
        heard->unsure = heard->unsure && resumed;
        if (heard->rests)
            wake(hearing, heard);
        heard->refused = heard->tried = false;
        look_at(hearing, heard);
    }
    ask(hearing);
}

void hearing_end(struct hearing *hearing) {
    hearing->up = false;
    for (size_t i = 0; i < hearing->count; i++)
        hearing->portion[i]->unsure = true;
    end_portion(hearing);
}
