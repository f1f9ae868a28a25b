// The sideline; see sideline.h.
#include "gateway/broker/sideline.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"

#define LATER        1000  // milliseconds until what the broker does not take for now goes out again
#define RESULT_WAIT  1000  // milliseconds after which a result goes out although the queue is not empty
#define SAY_WAIT_MAX 20000 // milliseconds that a connection must have lived, at most, before a value goes out
#define MEMORY_TIME  2000  // milliseconds after which a result that waits is written to disk
#define OVERDUE      10000 // milliseconds for which the broker answers later messages, and not this one

struct note {
    struct mqtt_publish publish; // its pointers point into bytes
    size_t size;
    uint64_t number;      // of a result, in the store
    bool stored;          // it is written there
    uint64_t put;         // by uv_now()
    uint64_t since;       // by uv_now(): when it was put or last answered
    uint64_t not_before;  // by uv_now(): the broker did not take it for now
    uint64_t handed_over; // by uv_now()
    int mid;              // while it is at the broker; 0: it is not
    struct strikes strikes;
    bool others_taken; // since it was put
    struct note *prev, *next;
    char bytes[];
};

struct sideline {
    uv_loop_t *loop;
    struct store *store;
    struct refusals *refusals;
    sideline_given_up_fn *given_up;
    void *context;
    const struct mqtt_carrier *carrier;
    struct note *says;    // of each topic one that waits, or is at the broker with one that waits behind it
    struct note *results; // the oldest first; only the first may be at the broker
    size_t count, bytes;  // of results
    uint64_t last_number; // of a result
    uint64_t up_since;    // by uv_now()
};

static struct note *make_note(struct sideline *sideline, const struct mqtt_publish *publish) {
    size_t topic = strlen(publish->topic) + 1;
    size_t size = sizeof(struct note) + topic + publish->length + publish->correlation_length;
    struct note *note = must_have(malloc(size));
    *note = (struct note){.publish = *publish, .size = size, .put = uv_now(sideline->loop)};
    note->since = note->put;
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

// Another value of the same topic, which waits behind it.
static struct note *find_other(const struct sideline *sideline, const struct note *say) {
    struct note *note;
    DL_FOREACH(sideline->says, note) {
        if (note != say && strcmp(note->publish.topic, say->publish.topic) == 0)
            return note;
    }
    return NULL;
}

static void drop_say(struct sideline *sideline, struct note *note) {
    DL_DELETE(sideline->says, note);
    free(note);
}

void sideline_say(struct sideline *sideline, const struct mqtt_publish *publish) {
    struct note *old = find_waiting(sideline, publish->topic), *note = make_note(sideline, publish);
    if (old != NULL) {
        note->strikes = old->strikes;
        drop_say(sideline, old);
    }
    DL_APPEND(sideline->says, note);
}

static void drop_result(struct sideline *sideline, struct note *note) {
    if (note->stored)
        store_delete_result(sideline->store, note->number);
    DL_DELETE(sideline->results, note);
    sideline->count--;
    sideline->bytes -= note->size;
    free(note);
}

static void give_up_result(struct sideline *sideline, struct note *note, const char *why) {
    sideline->given_up(sideline->context, &note->publish, why);
    drop_result(sideline, note);
}

static struct note *append_result(struct sideline *sideline, const struct mqtt_publish *publish,
                                  uint64_t number) {
    struct note *note = make_note(sideline, publish);
    note->number = sideline->last_number = number;
    DL_APPEND(sideline->results, note);
    sideline->count++;
    sideline->bytes += note->size;
    return note;
}

void sideline_result(struct sideline *sideline, const struct mqtt_publish *publish) {
    append_result(sideline, publish, sideline->last_number + 1);
    while (sideline->count > SIDELINE_RESULTS_MAX || sideline->bytes > SIDELINE_BYTES_MAX)
        give_up_result(sideline, sideline->results, "too many results wait for the broker");
}

static void take_stored(void *context, uint64_t number, const struct mqtt_publish *publish) {
    append_result(context, publish, number)->stored = true;
}

// Writes results that have waited for longer than that many milliseconds.
static void store_results(struct sideline *sideline, uint64_t older) {
    struct note *note;
    DL_FOREACH(sideline->results, note) {
        if (note->stored || uv_now(sideline->loop) - note->put < older)
            continue;
        store_put_result(sideline->store, note->number, &note->publish);
        note->stored = true;
    }
}

void sideline_stop(struct sideline *sideline) {
    store_results(sideline, 0);
}

size_t sideline_count(const struct sideline *sideline) {
    return sideline->count;
}

bool sideline_is_under_way(const struct sideline *sideline) {
    const struct note *note;
    DL_FOREACH(sideline->says, note) {
        if (note->mid != 0)
            return true;
    }
    return sideline->results != NULL && sideline->results->mid != 0;
}

// --- to the broker ---

static enum mqtt_publish_result hand_over(struct sideline *sideline, struct note *note) {
    enum mqtt_publish_result result =
        sideline->carrier->publish(sideline->carrier->context, &note->publish, &note->mid);
    if (result != MQTT_SENT)
        note->mid = 0;
    note->handed_over = uv_now(sideline->loop);
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

// Whether the connection has not lived for so long that a break would tell something; see suspects.h.
static bool must_wait(const struct sideline *sideline, const struct note *note, unsigned most) {
    uint64_t now = uv_now(sideline->loop);
    unsigned wait = strikes_wait(&note->strikes);
    return now < note->not_before || now - sideline->up_since < (wait < most ? wait : most);
}

// Two values of one topic are never under way at once: not every broker keeps their order. And where a broker closes the
// connection at a value that it refuses, nothing else would be sent if one went out first on each connection.
static bool may_say(const struct sideline *sideline, const struct note *note) {
    const char *topic = note->publish.topic;
    return note->mid == 0 && !must_wait(sideline, note, SAY_WAIT_MAX) && !is_at_broker(sideline, topic) &&
           !refusals_forbid(sideline->refusals, topic, &refusals_of_says, uv_now(sideline->loop));
}

static void pump_says(struct sideline *sideline) {
    struct note *note, *next;
    DL_FOREACH_SAFE(sideline->says, note, next) {
        if (!may_say(sideline, note))
            continue;
        if (hand_over(sideline, note) == MQTT_REFUSED) {
            sideline->given_up(sideline->context, &note->publish, "it cannot be sent to this broker");
            drop_say(sideline, note);
        }
    }
}

// Whether the next one may be looked at at once.
static bool pump_result(struct sideline *sideline, struct note *note) {
    const char *topic = note->publish.topic;
    uint64_t now = uv_now(sideline->loop);
    if (refusals_forbid(sideline->refusals, topic, &refusals_of_results, now)) {
        give_up_result(sideline, note, "the broker has refused others like it");
        return true;
    }
    enum mqtt_publish_result result = hand_over(sideline, note);
    if (result == MQTT_REFUSED)
        give_up_result(sideline, note, "it cannot be sent to this broker");
    else if (result == MQTT_SENT)
        refusals_note_tried(sideline->refusals, topic, &refusals_of_results, now);
    return result == MQTT_REFUSED;
}

static void pump_results(struct sideline *sideline, bool queue_is_empty) {
    struct note *note;
    while ((note = sideline->results) != NULL && note->mid == 0) {
        bool in_turn = queue_is_empty || uv_now(sideline->loop) - note->since >= RESULT_WAIT;
        if (!in_turn || must_wait(sideline, note, UINT_MAX) || !pump_result(sideline, note))
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

static bool is_for_later(struct sideline *sideline, struct note *note, enum mqtt_answer answer) {
    note->mid = 0;
    note->since = uv_now(sideline->loop);
    note->strikes = (struct strikes){.count = 0};
    if (answer == MQTT_TAKEN_LATER)
        note->not_before = note->since + LATER;
    return answer == MQTT_TAKEN_LATER;
}

// What the broker does not take for now goes out again after a pause.
static void end_say(struct sideline *sideline, struct note *note, enum mqtt_answer answer,
                    const char *reason) {
    if (is_for_later(sideline, note, answer))
        return;
    if (answer == MQTT_TAKEN) {
        refusals_note_taken(sideline->refusals, note->publish.topic, &refusals_of_says);
    } else {
        refusals_note_said(sideline->refusals, note->publish.topic, &refusals_of_says,
                           uv_now(sideline->loop));
        sideline->given_up(sideline->context, &note->publish, reason);
    }
    drop_say(sideline, note);
}

static void end_result(struct sideline *sideline, struct note *note, enum mqtt_answer answer,
                       const char *reason) {
    if (is_for_later(sideline, note, answer))
        return;
    if (answer != MQTT_TAKEN) {
        refusals_note_said(sideline->refusals, note->publish.topic, &refusals_of_results,
                           uv_now(sideline->loop));
        give_up_result(sideline, note, reason);
        return;
    }
    refusals_note_taken(sideline->refusals, note->publish.topic, &refusals_of_results);
    drop_result(sideline, note);
}

void sideline_note_taken(struct sideline *sideline) {
    if (sideline->results != NULL)
        sideline->results->others_taken = true; // the others do not go out
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

// --- a message that is never answered ---

static bool is_overdue(const struct note *note, uint64_t last_answer, const struct suspects *suspects) {
    return note->mid != 0 && last_answer > note->handed_over && last_answer - note->handed_over > OVERDUE &&
           suspects_would_have_answered(suspects, last_answer - note->handed_over);
}

static void forget_unanswered(struct sideline *sideline, struct note *say) {
    say->mid = 0;
    if (find_other(sideline, say) != NULL)
        drop_say(sideline, say);
}

void sideline_tick(struct sideline *sideline, uint64_t last_answer, const struct suspects *suspects) {
    struct note *note, *next;
    store_results(sideline, MEMORY_TIME);
    DL_FOREACH_SAFE(sideline->says, note, next) {
        if (is_overdue(note, last_answer, suspects))
            forget_unanswered(sideline, note);
    }
    if (sideline->results != NULL && is_overdue(sideline->results, last_answer, suspects))
        give_up_result(sideline, sideline->results, "it never acknowledges this message");
}

// --- a connection that comes and goes ---

void sideline_link_up(struct sideline *sideline) {
    sideline->up_since = uv_now(sideline->loop);
}

// A connection that broke without the message says nothing of it.
static void note_break(const struct sideline *sideline, struct note *note, enum mqtt_end end) {
    if (note->mid == 0)
        note->strikes = (struct strikes){.count = 0};
    else
        strikes_note(&note->strikes, end, note->handed_over - sideline->up_since,
                     uv_now(sideline->loop) - note->handed_over);
}

// What waits behind a value that was under way takes its place.
static void end_say_under_way(struct sideline *sideline, struct note *note, enum mqtt_end end) {
    struct note *newer = find_other(sideline, note);
    if (end != MQTT_ENDED_BY_US)
        note_break(sideline, note, end);
    note->mid = 0;
    if (newer == NULL)
        return;
    newer->strikes = note->strikes;
    drop_say(sideline, note);
}

static void end_says(struct sideline *sideline, enum mqtt_end end) {
    struct note *note, *next;
    DL_FOREACH(sideline->says, note) {
        if (end != MQTT_ENDED_BY_US && note->mid == 0)
            note_break(sideline, note, end);
    }
    DL_FOREACH_SAFE(sideline->says, note, next) {
        if (note->mid != 0)
            end_say_under_way(sideline, note, end);
    }
}

static void end_first_result(struct sideline *sideline, enum mqtt_end end) {
    struct note *note = sideline->results;
    if (note == NULL)
        return;
    if (end != MQTT_ENDED_BY_US)
        note_break(sideline, note, end);
    note->mid = 0;
    if (!strikes_convict(&note->strikes) || !note->others_taken)
        return;
    refusals_note(sideline->refusals, note->publish.topic, &refusals_of_results, uv_now(sideline->loop));
    give_up_result(sideline, note, "the broker closes the connection when it gets this message");
}

bool sideline_link_down(struct sideline *sideline, enum mqtt_end end) {
    bool under_way = sideline_is_under_way(sideline);
    end_says(sideline, end);
    end_first_result(sideline, end);
    return under_way;
}

// --- beginning, ending ---

struct sideline *sideline_new(uv_loop_t *loop, struct store *store, struct refusals *refusals,
                              sideline_given_up_fn *given_up, void *context) {
    struct sideline *sideline = must_have(calloc(1, sizeof *sideline));
    sideline->loop = loop;
    sideline->store = store;
    sideline->refusals = refusals;
    sideline->given_up = given_up;
    sideline->context = context;
    store_each_result(store, take_stored, sideline);
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
