// How new is what the broker retains; see newest.h.
#include "gateway/state/newest.h"

#include <stdlib.h>
#include <uthash.h>
#include <utlist.h>

#include "gateway/base/clock.h"
#include "gateway/base/memory.h"

#define WAIT      2000000 // microseconds
#define INTERVAL  100     // milliseconds between looks at the time
#define ASKED_MAX 100     // at once: thousands may come from a gateway that is gone

struct question {
    int64_t id;
    const char *rest;
    bool asked;
    int64_t until; // by clock_ticks()
    struct question *prev, *next;
    UT_hash_handle hh; // by id
};

struct newest {
    const struct bus *bus;
    struct mqtt_asker asker;
    struct question *by_id;
    struct question *asked, *waiting; // the longest first
    size_t asked_count;
};

static struct question *find(const struct newest *newest, int64_t id) {
    struct question *question;
    HASH_FIND(hh, newest->by_id, &id, sizeof id, question);
    return question;
}

static const char *filter_of(const struct newest *newest, const struct question *question,
                             char filter[TOPIC_MAX]) {
    return bus_topic(newest->bus, filter, TOPIC_STATE TOPIC_DEVICES "%lld%s", (long long)question->id,
                     question->rest);
}

static void leave(struct newest *newest, struct question *question) {
    if (question->asked)
        DL_DELETE(newest->asked, question);
    else
        DL_DELETE(newest->waiting, question);
    newest->asked_count -= question->asked;
    question->asked = false;
}

static void drop(struct newest *newest, struct question *question) {
    leave(newest, question);
    HASH_DEL(newest->by_id, question);
    free(question);
}

static bool ask(struct newest *newest, struct question *question) {
    char filter[TOPIC_MAX];
    if (!newest->asker.subscribe(newest->asker.context, filter_of(newest, question, filter)))
        return false;
    leave(newest, question);
    question->asked = true;
    question->until = clock_ticks() + WAIT;
    newest->asked_count++;
    DL_APPEND(newest->asked, question);
    return true;
}

static void ask_some(struct newest *newest) {
    while (newest->waiting != NULL && newest->asked_count < ASKED_MAX && ask(newest, newest->waiting)) {
    }
}

void newest_ask(struct newest *newest, int64_t id, const char *rest) {
    if (find(newest, id) != NULL)
        return;
    struct question *question = must_have(calloc(1, sizeof *question));
    question->id = id;
    question->rest = rest;
    HASH_ADD(hh, newest->by_id, id, sizeof question->id, question);
    DL_APPEND(newest->waiting, question);
    ask_some(newest);
}

bool newest_is_asked(const struct newest *newest, int64_t id) {
    return find(newest, id) != NULL;
}

void newest_end(struct newest *newest, int64_t id) {
    struct question *question = find(newest, id);
    char filter[TOPIC_MAX];
    if (question == NULL)
        return;
    if (question->asked)
        newest->asker.unsubscribe(newest->asker.context, filter_of(newest, question, filter));
    drop(newest, question);
    ask_some(newest);
}

bool newest_ends_one(struct newest *newest, int64_t *id) {
    ask_some(newest);
    if (newest->asked == NULL || newest->asked->until > clock_ticks())
        return false;
    *id = newest->asked->id;
    newest_end(newest, *id);
    return true;
}

uint64_t newest_wait(const struct newest *newest) {
    return newest->by_id != NULL ? INTERVAL : 0;
}

void newest_link_down(struct newest *newest) {
    struct question *question;
    while ((question = newest->asked) != NULL) {
        leave(newest, question);
        DL_APPEND(newest->waiting, question);
    }
}

struct newest *newest_new(const struct bus *bus, const struct mqtt_asker *asker) {
    struct newest *newest = must_have(calloc(1, sizeof *newest));
    newest->bus = bus;
    newest->asker = *asker;
    return newest;
}

void newest_free(struct newest *newest) {
    while (newest->by_id != NULL)
        drop(newest, newest->by_id);
    free(newest);
}
