// Publishes that a broker delivers again; see redelivery.h.
#include "gateway/commands/redelivery.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/hash.h"
#include "gateway/base/memory.h"

#define MID_MAX   65535
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

struct redelivery {
    struct earlier *earlier; // by fingerprint, packet id and id; NULL: no session goes on
    size_t count;
    int64_t since;
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

static int by_publish(const void *a, const void *b) {
    const struct earlier *one = a, *other = b;
    if (one->fingerprint != other->fingerprint)
        return one->fingerprint < other->fingerprint ? -1 : 1;
    if (one->mid != other->mid)
        return one->mid < other->mid ? -1 : 1;
    return one->id < other->id ? -1 : one->id > other->id;
}

static void forget_earlier(struct redelivery *redelivery) {
    free(redelivery->earlier);
    redelivery->earlier = NULL;
    redelivery->count = 0;
}

void redelivery_begin(struct redelivery *redelivery, const struct command_table *table,
                      int64_t before_session, int64_t now) {
    const struct command *command, *next;
    forget_earlier(redelivery);
    if (table == NULL)
        return;
    redelivery->earlier = must_have(calloc(HASH_COUNT(table->by_id) + 1, sizeof *redelivery->earlier));
    HASH_ITER(hh, table->by_id, command, next) {
        if (command->publish != 0 && command->id > before_session)
            redelivery->earlier[redelivery->count++] = (struct earlier){
                .fingerprint = command->publish, .id = command->id, .mid = command->mid, .nth = command->nth};
    }
    qsort(redelivery->earlier, redelivery->count, sizeof *redelivery->earlier, by_publish);
    redelivery->since = now;
}

// How many stand before what is behind all of that fingerprint and packet id.
static size_t count_through(const struct redelivery *redelivery, uint64_t fingerprint, int mid) {
    const struct earlier wanted = {.fingerprint = fingerprint, .mid = mid, .id = INT64_MAX};
    size_t low = 0, high = redelivery->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (by_publish(&redelivery->earlier[middle], &wanted) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// The newest that is not claimed, between two packet ids, of those with a number from since on: what the broker does not
// remember is what came last.
static struct earlier *find_unclaimed(struct redelivery *redelivery, uint64_t fingerprint, int mid_min,
                                      int mid_max, uint64_t since) {
    struct earlier *newest = NULL;
    for (size_t i = count_through(redelivery, fingerprint, mid_max); i > 0; i--) {
        struct earlier *earlier = &redelivery->earlier[i - 1];
        if (earlier->fingerprint != fingerprint || earlier->mid < mid_min)
            break;
        bool recent = earlier->nth == 0 || earlier->nth >= since;
        if (!earlier->claimed && recent && (newest == NULL || earlier->id > newest->id))
            newest = earlier;
    }
    return newest;
}

int64_t redelivery_twin(struct redelivery *redelivery, uint64_t fingerprint, int mid, uint64_t nth,
                        bool once) {
    struct earlier *earlier = NULL;
    if (mid != 0) // nothing is delivered again at QoS 0
        earlier = find_unclaimed(redelivery, fingerprint, mid, mid, nth > ROUND ? nth - ROUND : 0);
    if (earlier == NULL && mid != 0 && once)
        earlier = find_unclaimed(redelivery, fingerprint, 0, MID_MAX, 0);
    if (earlier == NULL)
        return 0;
    earlier->claimed = true;
    return earlier->id;
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
