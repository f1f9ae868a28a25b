// The sideline; see sideline.h.
#include "gateway/broker/sideline.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"

#define BREAKS_MAX  2    // connections that may break on one of these
#define LATER       1000 // milliseconds until what the broker does not take for now goes out again
#define RESULT_WAIT 1000 // milliseconds after which a result goes out although the queue is not empty

struct note {
    struct mqtt_publish publish; // first: sideline_take() gives it away with the memory
    size_t size;
    uint64_t since;      // by uv_now()
    uint64_t not_before; // by uv_now(): the broker did not take it for now
    int mid;             // while it is at the broker; 0: it is not
    unsigned breaks;
    struct note *prev, *next;
    char bytes[];
};

struct sideline {
    uv_loop_t *loop;
    struct refusals *refusals;
    sideline_given_up_fn *given_up;
    void *context;
    const struct mqtt_carrier *carrier;
    struct note *says;    // of each topic one that waits, or is at the broker with one that waits behind it
    struct note *results; // the oldest first; only the first may be at the broker
    size_t count, bytes;  // of results
};

static struct note *make_note(struct sideline *sideline, const struct mqtt_publish *publish) {
    size_t topic = strlen(publish->topic) + 1;
    size_t size = sizeof(struct note) + topic + publish->length + publish->correlation_length;
    struct note *note = must_have(malloc(size));
    *note = (struct note){.publish = *publish, .size = size, .since = uv_now(sideline->loop)};
    char *next = note->bytes;
    note->publish.topic = memcpy(next, publish->topic, topic);
    next += topic;
    if (publish->length > 0)
        note->publish.payload = memcpy(next, publish->payload, publish->length);
    next += publish->length;
    if (publish->correlation != NULL)
        note->publish.correlation = memcpy(next, publish->correlation, publish->correlation_length);
    return note;
}

// --- what waits ---

static struct note *find_waiting(const struct sideline *sideline, const char *topic) {
    struct note *note;
    DL_FOREACH(sideline->says, note) {
        if (note->mid == 0 && strcmp(note->publish.topic, topic) == 0)
            return note;
    }
    return NULL;
}

void sideline_say(struct sideline *sideline, const struct mqtt_publish *publish) {
    struct note *old = find_waiting(sideline, publish->topic), *note = make_note(sideline, publish);
    if (old != NULL) {
        note->breaks = old->breaks;
        DL_DELETE(sideline->says, old);
        free(old);
    }
    DL_APPEND(sideline->says, note);
    sideline_pump(sideline, false);
}

static void remove_result(struct sideline *sideline, struct note *note) {
    DL_DELETE(sideline->results, note);
    sideline->count--;
    sideline->bytes -= note->size;
}

static void give_up_result(struct sideline *sideline, struct note *note, const char *why) {
    remove_result(sideline, note);
    sideline->given_up(sideline->context, &note->publish, why);
    free(note);
}

void sideline_result(struct sideline *sideline, const struct mqtt_publish *publish) {
    struct note *note = make_note(sideline, publish);
    DL_APPEND(sideline->results, note);
    sideline->count++;
    sideline->bytes += note->size;
    while (sideline->count > SIDELINE_RESULTS_MAX || sideline->bytes > SIDELINE_BYTES_MAX)
        give_up_result(sideline, sideline->results, "too many results wait for the broker");
}

size_t sideline_count(const struct sideline *sideline) {
    return sideline->count;
}

struct mqtt_publish *sideline_take(struct sideline *sideline) {
    struct note *note = sideline->results;
    if (note == NULL)
        return NULL;
    remove_result(sideline, note);
    return &note->publish;
}

// --- to the broker ---

static enum mqtt_publish_result hand_over(struct sideline *sideline, struct note *note) {
    enum mqtt_publish_result result =
        sideline->carrier->publish(sideline->carrier->context, &note->publish, &note->mid);
    if (result != MQTT_SENT)
        note->mid = 0;
    return result;
}

static bool is_at_broker(const struct sideline *sideline, const char *topic) {
    const struct note *note;
    DL_FOREACH(sideline->says, note) {
        if (note->mid != 0 && strcmp(note->publish.topic, topic) == 0)
            return true;
    }
    return false;
}

static bool is_forbidden(const struct sideline *sideline, const struct note *note) {
    return refusals_forbid(sideline->refusals, note->publish.topic, &refusals_of_others,
                           uv_now(sideline->loop));
}

// Two values of one topic are never under way at once: not every broker keeps their order.
static void pump_says(struct sideline *sideline) {
    struct note *note, *next;
    DL_FOREACH_SAFE(sideline->says, note, next) {
        if (note->mid != 0 || uv_now(sideline->loop) < note->not_before ||
            is_at_broker(sideline, note->publish.topic) || is_forbidden(sideline, note))
            continue;
        if (hand_over(sideline, note) == MQTT_REFUSED) {
            sideline->given_up(sideline->context, &note->publish, "it cannot be sent to this broker");
            DL_DELETE(sideline->says, note);
            free(note);
        }
    }
}

static void pump_results(struct sideline *sideline, bool queue_is_empty) {
    struct note *note;
    while ((note = sideline->results) != NULL && note->mid == 0) {
        uint64_t now = uv_now(sideline->loop);
        if (now < note->not_before || (!queue_is_empty && now - note->since < RESULT_WAIT))
            return;
        if (is_forbidden(sideline, note))
            give_up_result(sideline, note, "the broker has refused others like it");
        else if (hand_over(sideline, note) == MQTT_REFUSED)
            give_up_result(sideline, note, "it cannot be sent to this broker");
        else
            return;
    }
}

void sideline_pump(struct sideline *sideline, bool queue_is_empty) {
    if (!sideline->carrier->is_up(sideline->carrier->context))
        return;
    pump_says(sideline);
    pump_results(sideline, queue_is_empty);
}

static struct note *find_mid(struct note *list, int mid) {
    struct note *note;
    DL_FOREACH(list, note) {
        if (note->mid == mid)
            return note;
    }
    return NULL;
}

static void note_answer(struct sideline *sideline, const struct note *note, enum mqtt_answer answer) {
    if (answer == MQTT_TAKEN)
        refusals_note_taken(sideline->refusals, note->publish.topic, &refusals_of_others);
}

// What the broker does not take for now goes out again after a pause.
static void end_say(struct sideline *sideline, struct note *note, enum mqtt_answer answer,
                    const char *reason) {
    note->mid = 0;
    note_answer(sideline, note, answer);
    if (answer == MQTT_TAKEN_LATER) {
        note->not_before = uv_now(sideline->loop) + LATER;
        return;
    }
    if (answer != MQTT_TAKEN)
        sideline->given_up(sideline->context, &note->publish, reason);
    DL_DELETE(sideline->says, note);
    free(note);
}

static void end_result(struct sideline *sideline, struct note *note, enum mqtt_answer answer,
                       const char *reason) {
    note->mid = 0;
    note->since = uv_now(sideline->loop);
    note_answer(sideline, note, answer);
    if (answer == MQTT_TAKEN_LATER) {
        note->not_before = uv_now(sideline->loop) + LATER;
        return;
    }
    if (answer != MQTT_TAKEN) {
        give_up_result(sideline, note, reason);
        return;
    }
    remove_result(sideline, note);
    free(note);
}

bool sideline_published(struct sideline *sideline, int mid, enum mqtt_answer answer, const char *reason) {
    struct note *say = find_mid(sideline->says, mid);
    if (say != NULL) {
        end_say(sideline, say, answer, reason);
        return true;
    }
    struct note *result = sideline->results;
    if (result == NULL || result->mid != mid)
        return false;
    end_result(sideline, result, answer, reason);
    return true;
}

// --- a connection that is gone ---

// A value that has cost two connections waits until its kind may be tried again.
static bool blame_says(struct sideline *sideline, bool by_broker) {
    struct note *note;
    bool any = false;
    DL_FOREACH(sideline->says, note) {
        if (note->mid == 0)
            continue;
        note->mid = 0;
        any = any || by_broker;
        if (by_broker && ++note->breaks >= BREAKS_MAX)
            refusals_note(sideline->refusals, note->publish.topic, &refusals_of_others,
                          uv_now(sideline->loop));
    }
    return any;
}

static bool blame_result(struct sideline *sideline, bool by_broker) {
    struct note *note = sideline->results;
    if (note == NULL || note->mid == 0)
        return false;
    note->mid = 0;
    if (!by_broker)
        return false;
    if (++note->breaks < BREAKS_MAX)
        return true;
    refusals_note(sideline->refusals, note->publish.topic, &refusals_of_others, uv_now(sideline->loop));
    give_up_result(sideline, note, "the broker closes the connection when it gets this message");
    return true;
}

bool sideline_link_down(struct sideline *sideline, bool by_broker) {
    bool result = blame_result(sideline, by_broker);
    return blame_says(sideline, by_broker) || result;
}

// --- beginning, ending ---

struct sideline *sideline_new(uv_loop_t *loop, struct refusals *refusals, sideline_given_up_fn *given_up,
                              void *context) {
    struct sideline *sideline = must_have(calloc(1, sizeof *sideline));
    sideline->loop = loop;
    sideline->refusals = refusals;
    sideline->given_up = given_up;
    sideline->context = context;
    return sideline;
}

void sideline_set_carrier(struct sideline *sideline, const struct mqtt_carrier *carrier) {
    sideline->carrier = carrier;
}

void sideline_free(struct sideline *sideline) {
    struct note *note, *next;
    DL_FOREACH_SAFE(sideline->says, note, next) {
        free(note);
    }
    DL_FOREACH_SAFE(sideline->results, note, next) {
        free(note);
    }
    free(sideline);
}
