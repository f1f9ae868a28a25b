// Publishes that a broker delivers again; see redelivery.h.
#include "gateway/commands/redelivery.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/hash.h"
#include "gateway/base/memory.h"
#include "gateway/base/table.h"

#define ROUND     60000    // publishes after which a packet id may be another one's, or nearly
#define OPEN_TIME 60000000 // microseconds from the connection during which publishes are compared

// A publish that was taken in on an earlier connection, and stands for no other one yet.
struct earlier {
    struct redelivery_publish publish;
    struct group *alike, *same; // that it stands in, the latter unless its packet id is another's by now
    struct earlier *prev_alike, *next_alike;
    struct earlier *prev_same, *next_same;
};

// Those with one fingerprint; or with one packet id too, -1 otherwise. The newest comes last.
struct group {
    struct {
        uint64_t fingerprint;
        int64_t mid;
    } key;
    struct earlier *list;
    UT_hash_handle hh;
};

struct redelivery {
    struct earlier *earlier; // NULL: no session goes on
    struct group *made;      // room for two of each of these
    size_t count, groups, most;
    struct group *by_key;
    int64_t since;
    size_t looked_at;
};

struct redelivery *redelivery_new(void) {
    return must_have(calloc(1, sizeof(struct redelivery)));
}

// --- fingerprints ---

static size_t put(char *to, const void *bytes, size_t length) {
    memcpy(to, &length, sizeof length);
    if (length > 0)
        memcpy(to + sizeof length, bytes, length);
    return sizeof length + length;
}

uint64_t redelivery_fingerprint(const struct mqtt_received *received) {
    const char *response = received->response_topic != NULL ? received->response_topic : "";
    size_t topic = strlen(received->topic), answer = strlen(response), length = 0;
    size_t correlation = received->correlation != NULL ? received->correlation_length : 0;
    char *all = must_have(malloc(4 * sizeof(size_t) + topic + answer + received->length + correlation));
    length += put(all + length, received->topic, topic);
    length += put(all + length, response, answer);
    length += put(all + length, received->payload, received->length);
    length += put(all + length, received->correlation, correlation);
    uint64_t hash = hash_fnv1a(all, length);
    free(all);
    return hash != 0 ? hash : 1;
}

// --- what was taken in ---

static void forget_earlier(struct redelivery *redelivery) {
    HASH_CLEAR(hh, redelivery->by_key);
    free(redelivery->earlier);
    free(redelivery->made);
    redelivery->earlier = NULL;
    redelivery->made = NULL;
    redelivery->count = redelivery->groups = redelivery->most = 0;
}

void redelivery_begin(struct redelivery *redelivery, size_t most, int64_t now) {
    forget_earlier(redelivery);
    redelivery->earlier = must_have(calloc(most + 1, sizeof *redelivery->earlier));
    redelivery->made = must_have(calloc(2 * most + 1, sizeof *redelivery->made));
    redelivery->most = most;
    redelivery->since = now;
}

static struct group *find_group(const struct redelivery *redelivery, uint64_t fingerprint, int64_t mid) {
    struct group wanted = {.key = {fingerprint, mid}}, *group;
    HASH_FIND(hh, redelivery->by_key, &wanted.key, sizeof wanted.key, group);
    return group;
}

static struct group *find_or_make(struct redelivery *redelivery, uint64_t fingerprint, int64_t mid) {
    struct group *group = find_group(redelivery, fingerprint, mid);
    if (group != NULL)
        return group;
    group = &redelivery->made[redelivery->groups++];
    group->key.fingerprint = fingerprint;
    group->key.mid = mid;
    HASH_ADD(hh, redelivery->by_key, key, sizeof group->key, group);
    return group;
}

// They come nearly in the order of their ids.
static void join(struct redelivery *redelivery, struct earlier *earlier) {
    struct earlier *before = earlier->alike->list != NULL ? earlier->alike->list->prev_alike : NULL;
    for (; before != NULL && before->publish.id > earlier->publish.id; redelivery->looked_at++)
        before = before != earlier->alike->list ? before->prev_alike : NULL;
    if (before == NULL)
        DL_PREPEND2(earlier->alike->list, earlier, prev_alike, next_alike);
    else
        DL_APPEND_ELEM2(earlier->alike->list, before, earlier, prev_alike, next_alike);
    before = earlier->same->list != NULL ? earlier->same->list->prev_same : NULL;
    for (; before != NULL && before->publish.id > earlier->publish.id; redelivery->looked_at++)
        before = before != earlier->same->list ? before->prev_same : NULL;
    if (before == NULL)
        DL_PREPEND2(earlier->same->list, earlier, prev_same, next_same);
    else
        DL_APPEND_ELEM2(earlier->same->list, before, earlier, prev_same, next_same);
}

void redelivery_add(struct redelivery *redelivery, const struct redelivery_publish *publish) {
    if (redelivery->count == redelivery->most)
        return;
    struct earlier *earlier = &redelivery->earlier[redelivery->count++];
    earlier->publish = *publish;
    earlier->alike = find_or_make(redelivery, publish->fingerprint, -1);
    earlier->same = find_or_make(redelivery, publish->fingerprint, publish->mid);
    join(redelivery, earlier);
}

static void leave_same(struct earlier *earlier) {
    if (earlier->same != NULL)
        DL_DELETE2(earlier->same->list, earlier, prev_same, next_same);
    earlier->same = NULL;
}

// The newest. What came before since has another's packet id by now.
static struct earlier *find_with_mid(struct redelivery *redelivery, uint64_t fingerprint, int mid,
                                     uint64_t since) {
    struct group *group = find_group(redelivery, fingerprint, mid);
    while (group != NULL && group->list != NULL) {
        struct earlier *last = group->list->prev_same;
        redelivery->looked_at++;
        if (last->publish.nth >= since)
            return last;
        leave_same(last);
    }
    return NULL;
}

static struct earlier *find_with_any(struct redelivery *redelivery, uint64_t fingerprint) {
    const struct group *group = find_group(redelivery, fingerprint, -1);
    redelivery->looked_at++;
    return group != NULL && group->list != NULL ? group->list->prev_alike : NULL;
}

int64_t redelivery_twin(struct redelivery *redelivery, uint64_t fingerprint, int mid, uint64_t nth,
                        bool once) {
    if (redelivery->count == 0 || mid == 0) // nothing is delivered again at QoS 0
        return 0;
    struct earlier *earlier = find_with_mid(redelivery, fingerprint, mid, nth > ROUND ? nth - ROUND : 0);
    if (earlier == NULL && once)
        earlier = find_with_any(redelivery, fingerprint);
    if (earlier == NULL)
        return 0;
    leave_same(earlier);
    DL_DELETE2(earlier->alike->list, earlier, prev_alike, next_alike);
    return earlier->publish.id;
}

size_t redelivery_count(const struct redelivery *redelivery) {
    return redelivery->count;
}

size_t redelivery_looked_at(const struct redelivery *redelivery) {
    return redelivery->looked_at;
}

void redelivery_end(struct redelivery *redelivery) {
    forget_earlier(redelivery);
}

void redelivery_free(struct redelivery *redelivery) {
    if (redelivery != NULL)
        forget_earlier(redelivery);
    free(redelivery);
}

bool redelivery_is_overdue(const struct redelivery *redelivery, int64_t now) {
    return redelivery->earlier != NULL && now - redelivery->since >= OPEN_TIME;
}
