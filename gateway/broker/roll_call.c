// The roll call; see roll_call.h.
#include "gateway/broker/roll_call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/memory.h"

#define ASK_TIME    2000 // milliseconds until we ask again
#define SETTLE_TIME 1000 // milliseconds of the quiet period
#define HELD_TIME   20   // milliseconds until we look again whether the broker is read
#define UNHEARD     5    // questions without an answer, after which something is wrong

enum state {
    NEVER, // the broker has not said yet what it retains
    OPEN,  // it delivers
    SETTLING,
    DONE,
    NO_LINK, // but it was done before
};

struct roll_call {
    const struct bus *bus;
    struct roll_call_handlers handlers;
    enum state state;
    char nonce[40]; // of the question that is out, as JSON; empty: none is
    unsigned asked; // times, on this connection
    uv_timer_t timer;
};

bool roll_call_is_open(const struct roll_call *roll_call) {
    return roll_call->state <= SETTLING;
}

bool roll_call_is_done(const struct roll_call *roll_call) {
    return roll_call->state == DONE;
}

static void on_settled(uv_timer_t *timer) {
    struct roll_call *roll_call = timer->data;
    if (bus_is_held(roll_call->bus)) { // it is we who do not listen: that is no quiet
        uv_timer_start(timer, on_settled, HELD_TIME, 0);
        return;
    }
    roll_call->state = DONE;
    roll_call->handlers.settled(roll_call->handlers.context);
}

// More is still arriving: the quiet period starts over.
static void goes_on(struct roll_call *roll_call) {
    if (roll_call->state == SETTLING)
        uv_timer_start(&roll_call->timer, on_settled, SETTLE_TIME, 0);
}

// A broker that is behind gives nothing back yet.
static void look_for_silence(struct roll_call *roll_call) {
    if (roll_call->asked > UNHEARD || roll_call->state != OPEN || !bus_keeps_up(roll_call->bus))
        return;
    if (roll_call->asked++ == UNHEARD && roll_call->handlers.unheard != NULL)
        roll_call->handlers.unheard(roll_call->handlers.context);
}

// A broker whose queue is full drops the question: then we ask again.
static void ask(uv_timer_t *timer) {
    struct roll_call *roll_call = timer->data;
    look_for_silence(roll_call);
    json_t *question = json_loads(roll_call->nonce, JSON_DECODE_ANY, NULL);
    bus_publish(roll_call->bus, question, MQTT_NOT_RETAINED, TOPIC_STATE TOPIC_INSTANCES "%s" TOPIC_SYNC,
                bus_client_id(roll_call->bus));
    json_decref(question);
    uv_timer_start(timer, ask, ASK_TIME, 0);
}

static bool is_answer(const struct roll_call *roll_call, const char *topic,
                      const struct mqtt_received *received) {
    const char *rest = topic_after(topic, TOPIC_INSTANCES);
    rest = rest != NULL ? bus_after_own(roll_call->bus, rest) : NULL;
    return rest != NULL && strcmp(rest, TOPIC_SYNC) == 0 && received->length > 0 &&
           received->length == strlen(roll_call->nonce) &&
           memcmp(received->payload, roll_call->nonce, received->length) == 0;
}

void roll_call_received(struct roll_call *roll_call, const char *topic,
                        const struct mqtt_received *received) {
    if (received->retain)
        goes_on(roll_call);
    if (received->retain && roll_call->asked <= UNHEARD)
        roll_call->asked = 0; // it still delivers, and our question is behind that
    if (roll_call->state != OPEN || !is_answer(roll_call, topic, received))
        return;
    roll_call->state = SETTLING;
    roll_call->handlers.answered(roll_call->handlers.context);
    goes_on(roll_call);
}

// A broker that was killed delivers the answer of the connection before once more, perhaps before we have asked on this
// one.
void roll_call_begin(struct roll_call *roll_call) {
    roll_call->state = OPEN;
    *roll_call->nonce = '\0';
}

void roll_call_ask(struct roll_call *roll_call) {
    snprintf(roll_call->nonce, sizeof roll_call->nonce, "\"%lld\"", (long long)clock_now());
    roll_call->asked = 0;
    ask(&roll_call->timer);
}

void roll_call_lost(struct roll_call *roll_call) {
    roll_call->state = roll_call_is_open(roll_call) ? NEVER : NO_LINK;
    uv_timer_stop(&roll_call->timer);
}

struct roll_call *roll_call_new(uv_loop_t *loop, const struct bus *bus,
                                const struct roll_call_handlers *handlers) {
    struct roll_call *roll_call = must_have(calloc(1, sizeof *roll_call));
    roll_call->bus = bus;
    roll_call->handlers = *handlers;
    uv_timer_init(loop, &roll_call->timer);
    roll_call->timer.data = roll_call;
    return roll_call;
}

void roll_call_stop(struct roll_call *roll_call) {
    uv_close((uv_handle_t *)&roll_call->timer, NULL);
}

void roll_call_free(struct roll_call *roll_call) {
    free(roll_call);
}
