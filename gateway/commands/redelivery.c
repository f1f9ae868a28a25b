// Publishes that a broker delivers again; see redelivery.h.
#include "gateway/commands/redelivery.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/hash.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"

#define OPEN_TIME 60000000    // microseconds from the connection during which publishes are compared at most
#define HELD_MAX  (16U << 20) // bytes

// A publish that was taken in on an earlier connection.
struct earlier {
    uint64_t fingerprint;
    int64_t id; // of its first command
    bool claimed;
};

struct held {
    struct mqtt_received received; // its texts are owned
    int64_t id;                    // of what was taken in earlier
    struct held *prev, *next;
};

struct redelivery {
    struct earlier *earlier; // by fingerprint, and then by id; NULL: no session goes on
    size_t count;
    struct held *held; // in the order in which they came
    size_t held_bytes;
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

static int by_fingerprint(const void *a, const void *b) {
    const struct earlier *one = a, *other = b;
    if (one->fingerprint != other->fingerprint)
        return one->fingerprint < other->fingerprint ? -1 : 1;
    return one->id < other->id ? -1 : one->id > other->id;
}

static void forget_earlier(struct redelivery *redelivery) {
    free(redelivery->earlier);
    redelivery->earlier = NULL;
    redelivery->count = 0;
}

void redelivery_begin(struct redelivery *redelivery, const struct command_table *table, int64_t now) {
    const struct command *command, *next;
    forget_earlier(redelivery);
    if (table == NULL)
        return;
    redelivery->earlier = must_have(calloc(HASH_COUNT(table->by_id) + 1, sizeof *redelivery->earlier));
    HASH_ITER(hh, table->by_id, command, next) {
        if (command->publish != 0)
            redelivery->earlier[redelivery->count++] =
                (struct earlier){.fingerprint = command->publish, .id = command->id};
    }
    qsort(redelivery->earlier, redelivery->count, sizeof *redelivery->earlier, by_fingerprint);
    redelivery->since = now;
}

// The newest that is not claimed: what the broker does not remember is what came last.
static struct earlier *find_unclaimed(struct redelivery *redelivery, uint64_t fingerprint) {
    size_t low = 0, high = redelivery->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (redelivery->earlier[middle].fingerprint <= fingerprint)
            low = middle + 1;
        else
            high = middle;
    }
    while (low > 0 && redelivery->earlier[low - 1].fingerprint == fingerprint)
        if (!redelivery->earlier[--low].claimed)
            return &redelivery->earlier[low];
    return NULL;
}

// --- what is held ---

static void *copy(const void *bytes, size_t length) {
    char *memory = bytes != NULL ? must_have(malloc(length + 1)) : NULL;
    if (memory != NULL) {
        memcpy(memory, bytes, length);
        memory[length] = '\0';
    }
    return memory;
}

static char *copy_text(const char *text) {
    return text != NULL ? copy(text, strlen(text)) : NULL;
}

static void hold(struct redelivery *redelivery, const struct mqtt_received *received, int64_t id) {
    struct held *held = must_have(calloc(1, sizeof *held));
    held->id = id;
    held->received =
        (struct mqtt_received){.topic = copy_text(received->topic),
                               .payload = copy(received->payload, received->length),
                               .length = received->length,
                               .response_topic = copy_text(received->response_topic),
                               .correlation = copy(received->correlation, received->correlation_length),
                               .correlation_length = received->correlation_length};
    redelivery->held_bytes += received->length + sizeof *held;
    DL_APPEND(redelivery->held, held);
}

static void let_go(struct redelivery *redelivery, struct held *held) {
    DL_DELETE(redelivery->held, held);
    redelivery->held_bytes -= held->received.length + sizeof *held;
    free((char *)held->received.topic);
    free((char *)held->received.payload);
    free((char *)held->received.response_topic);
    free((char *)held->received.correlation);
    free(held);
}

void redelivery_free(struct redelivery *redelivery) {
    struct held *held, *next;
    if (redelivery == NULL)
        return;
    DL_FOREACH_SAFE(redelivery->held, held, next) {
        let_go(redelivery, held);
    }
    forget_earlier(redelivery);
    free(redelivery);
}

// --- judging ---

static void say_again(const char *topic, int64_t id) {
    log_info("%s: delivered again by the broker, left out: command %lld came of it already", topic,
             (long long)id);
}

enum redelivery_verdict redelivery_judge(struct redelivery *redelivery, uint64_t fingerprint,
                                         const struct mqtt_received *received) {
    struct earlier *earlier = find_unclaimed(redelivery, fingerprint);
    if (earlier == NULL)
        return REDELIVERY_NEW;
    earlier->claimed = true;
    if (!received->dup && redelivery->held_bytes < HELD_MAX) {
        hold(redelivery, received, earlier->id);
        return REDELIVERY_UNKNOWN;
    }
    say_again(received->topic, earlier->id);
    return REDELIVERY_AGAIN;
}

void redelivery_end(struct redelivery *redelivery, int64_t vouched, redelivery_take_fn *take, void *context) {
    struct held *held, *next;
    forget_earlier(redelivery);
    DL_FOREACH_SAFE(redelivery->held, held, next) {
        if (held->id <= vouched)
            take(context, &held->received);
        else
            say_again(held->received.topic, held->id);
        let_go(redelivery, held);
    }
}

bool redelivery_is_overdue(const struct redelivery *redelivery, int64_t now) {
    return redelivery->earlier != NULL && now - redelivery->since >= OPEN_TIME;
}
