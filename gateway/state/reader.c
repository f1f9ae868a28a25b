// Reading what is retained; see reader.h.
#include "gateway/state/reader.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/bus.h"
#include "gateway/broker/mqtt_link.h"

#define INTERVAL   100   // milliseconds between looks at the time
#define SLOW_TIME  1000  // milliseconds without a message after which a broker is slow
#define QUIET_TIME 5000  // milliseconds without a message after which nothing more is expected
#define TIME_MAX   20000 // milliseconds that it may take in all

enum { FILTERS = 4 };

struct state_reader {
    struct state_reader_handlers handlers;
    struct mqtt_asker asker; // the main connection
    struct config config;    // the gateway's, but for the client_id
    char *client_id;         // config's
    char *base;              // {prefix}/state/gw/
    struct mqtt_link *link;
    struct mqtt_subscription subscriptions[FILTERS];
    uv_timer_t timer;
    uint64_t begun, heard; // by uv_now(); heard 0: nothing yet
    size_t count;          // of messages
    bool refused;          // the second connection: reading goes on on the main one
    bool asked;            // on the main one
    bool slow;             // the log has it
    bool ended;            // what is retained last has come
    bool stopped;
};

static void warn_of_what_is_missing(const struct state_reader *reader) {
    if (reader->count == 0)
        log_warning("the broker reported nothing of what it retains under %s: it has nothing, or its access "
                    "list does not let this client read it",
                    reader->base);
    else
        log_warning("the broker reported only %zu of the topics it retains for devices: it is slow, or drops "
                    "some (in Mosquitto, set max_queued_messages 100000)",
                    reader->count);
}

static void finish(struct state_reader *reader) {
    if (!reader->ended)
        warn_of_what_is_missing(reader);
    state_reader_stop(reader);
    reader->handlers.answered(reader->handlers.context);
}

// --- on the main connection ---

static void ask_on_main(struct state_reader *reader) {
    for (size_t i = 0; i < FILTERS; i++)
        if (!reader->asker.subscribe(reader->asker.context, reader->subscriptions[i].filter))
            return;
    reader->asked = true;
    reader->heard = uv_now(reader->timer.loop);
}

static void unsubscribe_on_main(struct state_reader *reader) {
    for (size_t i = 0; reader->asked && i < FILTERS; i++)
        reader->asker.unsubscribe(reader->asker.context, reader->subscriptions[i].filter);
    reader->asked = false;
}

void state_reader_link_down(struct state_reader *reader) {
    if (reader == NULL)
        return;
    reader->asked = false;
    reader->heard = 0;
}

// --- either way ---

static bool is_quiet(struct state_reader *reader, uint64_t now) {
    uint64_t quiet = reader->heard != 0 ? now - reader->heard : 0;
    if (quiet > SLOW_TIME && !reader->slow) {
        reader->slow = true;
        log_warning("the broker takes more than %d s to say what it retains for devices: state is published "
                    "when it has said it",
                    SLOW_TIME / 1000);
    }
    return quiet > QUIET_TIME;
}

static void on_timer(uv_timer_t *timer) {
    struct state_reader *reader = timer->data;
    uint64_t now = uv_now(timer->loop);
    if (reader->refused && !reader->asked)
        ask_on_main(reader);
    if (reader->ended || is_quiet(reader, now) || now - reader->begun > TIME_MAX)
        finish(reader);
}

static void look_at_once(struct state_reader *reader) {
    if (!reader->stopped)
        uv_timer_start(&reader->timer, on_timer, 0, INTERVAL); // not from here: the link would be gone
}

static void note(struct state_reader *reader, const char *topic, bool retain) {
    const char *last = reader->subscriptions[FILTERS - 1].filter + strlen(reader->base);
    reader->heard = uv_now(reader->timer.loop);
    if (!retain)
        return;
    reader->count++;
    reader->ended = reader->ended || strcmp(topic, last) == 0;
    if (reader->ended)
        look_at_once(reader);
}

void state_reader_heard(struct state_reader *reader, const char *topic,
                        const struct mqtt_received *received) {
    if (reader != NULL && !reader->stopped && reader->asked)
        note(reader, topic, received->retain);
}

// --- on a connection of its own ---

static void on_up(void *context) {
    struct state_reader *reader = context;
    reader->heard = uv_now(reader->timer.loop);
}

static void on_failed(void *context, const char *why) {
    struct state_reader *reader = context;
    log_warning("a second connection, with the client id '%s', came to nothing: %s: what the broker retains is "
                "read on the main connection",
                reader->client_id, why);
    reader->refused = true;
    look_at_once(reader);
}

static void ignore(void *context) {
}

static void ignore_down(void *context, bool by_broker) {
}

static void ignore_published(void *context, int mid, enum mqtt_answer answer, const char *reason) {
}

static void on_received(void *context, const struct mqtt_received *received) {
    struct state_reader *reader = context;
    const char *topic = topic_after(received->topic, reader->base);
    if (topic == NULL)
        return;
    note(reader, topic, received->retain);
    if (!reader->ended)
        reader->handlers.received(reader->handlers.context, topic, received);
}

static const struct mqtt_link_handlers link_handlers = {.purpose = "what it retains",
                                                        .connected = ignore,
                                                        .up = on_up,
                                                        .down = ignore_down,
                                                        .failed = on_failed,
                                                        .published = ignore_published,
                                                        .received = on_received};

// Identities come first, because the rest is of use only for devices that are known; what we have published
// just now comes last.
static void fill_subscriptions(struct state_reader *reader, const char *client_id) {
    const char *base = reader->base;
    struct mqtt_subscription *subscriptions = reader->subscriptions;
    subscriptions[0].filter = text_format("%s" TOPIC_DEVICES "+", base);
    subscriptions[1].filter = text_format("%s" TOPIC_DEVICES "+" TOPIC_CONNECTED, base);
    subscriptions[2].filter = text_format("%s" TOPIC_DEVICES "+" TOPIC_TELEMETRY "timestamp", base);
    subscriptions[3].filter = text_format("%s" TOPIC_INSTANCES "%s", base, client_id);
}

static void start(struct state_reader *reader, uv_loop_t *loop) {
    reader->link = mqtt_link_new(loop, &reader->config, reader->subscriptions, FILTERS, false, NULL, NULL,
                                 &link_handlers, reader);
    uv_timer_init(loop, &reader->timer);
    reader->timer.data = reader;
    reader->begun = uv_now(loop);
    uv_timer_start(&reader->timer, on_timer, INTERVAL, INTERVAL);
    mqtt_link_start(reader->link);
}

struct state_reader *state_reader_new(uv_loop_t *loop, const struct config *config,
                                      const struct mqtt_asker *asker,
                                      const struct state_reader_handlers *handlers) {
    struct state_reader *reader = must_have(calloc(1, sizeof *reader));
    reader->asker = *asker;
    reader->handlers = *handlers;
    reader->config = *config;
    reader->client_id = text_format("%s-reader", config->mqtt.client_id);
    reader->config.mqtt.client_id = reader->client_id;
    reader->base = text_format("%s/" TOPIC_STATE, config->mqtt.topic_prefix);
    fill_subscriptions(reader, config->mqtt.client_id);
    start(reader, loop);
    return reader;
}

void state_reader_stop(struct state_reader *reader) {
    if (reader == NULL || reader->stopped)
        return;
    reader->stopped = true;
    unsubscribe_on_main(reader);
    mqtt_link_stop(reader->link);
    uv_close((uv_handle_t *)&reader->timer, NULL);
}

void state_reader_free(struct state_reader *reader) {
    if (reader == NULL)
        return;
    mqtt_link_free(reader->link);
    for (size_t i = 0; i < FILTERS; i++)
        free(reader->subscriptions[i].filter);
    free(reader->client_id);
    free(reader->base);
    free(reader);
}

bool state_reader_is_connecting(const struct state_reader *reader) {
    return reader != NULL && mqtt_link_is_connecting(reader->link);
}
