// Publishes that a broker delivers again; see redelivery.h.
#include "gateway/commands/redelivery.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/hash.h"
#include "gateway/base/memory.h"

#define ROUND     60000    // publishes after which a packet id may be another one's, or nearly
#define OPEN_TIME 60000000 // microseconds from the connection during which publishes are compared

// A publish that was taken in on an earlier connection.
struct earlier {
    uint64_t fingerprint;
    int64_t id; // of its first command
    int mid;
    uint64_t nth; // 0: it came to an earlier run
    bool claimed;
};

// An order in which the newest that is left is found without a look at those that are not: they are never left again.
struct order {
    struct earlier **at; // NULL: not made yet
    size_t *left; // of the first n: how many there are without those at their end that are not left; or n
};

struct redelivery {
    struct earlier *earlier; // NULL: no session goes on
    size_t count;
    struct order by_publish;     // fingerprint, packet id and id
    struct order by_fingerprint; // and id; made when it is needed
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

typedef int compare_fn(const struct earlier *one, const struct earlier *other);

static int by_fingerprint(const struct earlier *one, const struct earlier *other) {
    if (one->fingerprint != other->fingerprint)
        return one->fingerprint < other->fingerprint ? -1 : 1;
    return one->id < other->id ? -1 : one->id > other->id;
}

static int by_publish(const struct earlier *one, const struct earlier *other) {
    if (one->fingerprint == other->fingerprint && one->mid != other->mid)
        return one->mid < other->mid ? -1 : 1;
    return by_fingerprint(one, other);
}

static int sort_by_fingerprint(const void *a, const void *b) {
    return by_fingerprint(*(struct earlier *const *)a, *(struct earlier *const *)b);
}

static int sort_by_publish(const void *a, const void *b) {
    return by_publish(*(struct earlier *const *)a, *(struct earlier *const *)b);
}

static void free_order(struct order *order) {
    free(order->at);
    free(order->left);
    *order = (struct order){.at = NULL};
}

static void make_order(const struct redelivery *redelivery, struct order *order,
                       int (*sort)(const void *a, const void *b)) {
    order->at = must_have(calloc(redelivery->count + 1, sizeof *order->at));
    order->left = must_have(calloc(redelivery->count + 1, sizeof *order->left));
    for (size_t i = 0; i <= redelivery->count; i++)
        order->left[i] = i;
    for (size_t i = 0; i < redelivery->count; i++)
        order->at[i] = &redelivery->earlier[i];
    qsort(order->at, redelivery->count, sizeof(struct earlier *), sort);
}

static void forget_earlier(struct redelivery *redelivery) {
    free_order(&redelivery->by_publish);
    free_order(&redelivery->by_fingerprint);
    free(redelivery->earlier);
    redelivery->earlier = NULL;
    redelivery->count = 0;
}

// Of those of which a command was taken in, that stands for it.
static void add_waiting(struct redelivery *redelivery, const struct command_journal *journal,
                        int64_t before_session) {
    const struct command_publish *publish;
    DL_FOREACH(journal->publishes, publish) {
        const struct command_origin *origin = &publish->origin;
        if (origin->publish != 0 && publish->id > before_session)
            redelivery->earlier[redelivery->count++] = (struct earlier){
                .fingerprint = origin->publish, .id = publish->id, .mid = origin->mid, .nth = origin->nth};
    }
}

void redelivery_begin(struct redelivery *redelivery, const struct command_table *table,
                      const struct command_journal *journal, int64_t before_session, int64_t now) {
    const struct command *command, *next;
    forget_earlier(redelivery);
    if (table == NULL)
        return;
    redelivery->earlier =
        must_have(calloc(HASH_COUNT(table->by_id) + journal->count + 1, sizeof *redelivery->earlier));
    HASH_ITER(hh, table->by_id, command, next) {
        if (command->publish != 0 && command->id > before_session)
            redelivery->earlier[redelivery->count++] = (struct earlier){
                .fingerprint = command->publish, .id = command->id, .mid = command->mid, .nth = command->nth};
    }
    add_waiting(redelivery, journal, before_session);
    make_order(redelivery, &redelivery->by_publish, sort_by_publish);
    redelivery->since = now;
}

// How many stand before what is behind wanted.
static size_t count_through(const struct redelivery *redelivery, const struct order *order,
                            compare_fn *compare, const struct earlier *wanted) {
    size_t low = 0, high = redelivery->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(order->at[middle], wanted) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static size_t without_end(const struct order *order, size_t count) {
    while (order->left[count] != count) {
        order->left[count] = order->left[order->left[count]];
        count = order->left[count];
    }
    return count;
}

// The newest of the first ones that is not claimed, and has a number from since on: what the broker does not remember is
// what came last. Numbers only grow: what is too old now is so for ever.
static struct earlier *find_left(struct redelivery *redelivery, struct order *order, size_t count,
                                 const struct earlier *wanted, bool any_mid, uint64_t since) {
    for (count = without_end(order, count); count > 0; count = without_end(order, count)) {
        struct earlier *earlier = order->at[count - 1];
        redelivery->looked_at++;
        if (earlier->fingerprint != wanted->fingerprint || (!any_mid && earlier->mid != wanted->mid))
            return NULL;
        if (!earlier->claimed && (earlier->nth == 0 || earlier->nth >= since))
            return earlier;
        order->left[count] = count - 1;
    }
    return NULL;
}

static struct earlier *find_with_mid(struct redelivery *redelivery, const struct earlier *wanted,
                                     uint64_t since) {
    struct order *order = &redelivery->by_publish;
    size_t count = count_through(redelivery, order, by_publish, wanted);
    return find_left(redelivery, order, count, wanted, false, since);
}

static struct earlier *find_with_any(struct redelivery *redelivery, const struct earlier *wanted) {
    struct order *order = &redelivery->by_fingerprint;
    if (order->at == NULL)
        make_order(redelivery, order, sort_by_fingerprint);
    size_t count = count_through(redelivery, order, by_fingerprint, wanted);
    return find_left(redelivery, order, count, wanted, true, 0);
}

int64_t redelivery_twin(struct redelivery *redelivery, uint64_t fingerprint, int mid, uint64_t nth,
                        bool once) {
    const struct earlier wanted = {.fingerprint = fingerprint, .mid = mid, .id = INT64_MAX};
    if (redelivery->count == 0 || mid == 0) // nothing is delivered again at QoS 0
        return 0;
    struct earlier *earlier = find_with_mid(redelivery, &wanted, nth > ROUND ? nth - ROUND : 0);
    if (earlier == NULL && once)
        earlier = find_with_any(redelivery, &wanted);
    if (earlier == NULL)
        return 0;
    earlier->claimed = true;
    return earlier->id;
}

bool redelivery_has_any(const struct redelivery *redelivery) {
    return redelivery->count > 0;
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
