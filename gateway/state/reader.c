// Reading what is retained; see reader.h.
#include "gateway/state/reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/run/gateway.h"

#define INTERVAL   100   // milliseconds between looks at the time
#define QUIET_TIME 1000  // milliseconds without a message after which nothing more is believed to come
#define TIME_MAX   20000 // milliseconds that it may take in all

enum { FILTERS = 4 };

struct state_reader {
    struct gateway *gateway;
    struct config config; // the gateway's, but for the client_id
    struct mqtt_link *link;
    struct mqtt_subscription subscriptions[FILTERS];
    uv_timer_t timer;
    uint64_t begun, heard; // by uv_now(); heard 0: nothing yet
    size_t count;          // of messages
    bool ended;            // what is retained last has come
    bool stopped;
};

static void finish(struct state_reader *reader) {
    struct gateway *gateway = reader->gateway;
    if (!reader->ended && reader->count > 0)
        log_warning(
            "the broker has not told all that it retains of devices, of %zu topics it did; Mosquitto does "
            "with max_queued_messages 0",
            reader->count);
    state_reader_stop(reader);
    state_answered(gateway);
}

static void on_timer(uv_timer_t *timer) {
    struct state_reader *reader = timer->data;
    uint64_t now = uv_now(timer->loop);
    bool quiet = reader->heard != 0 && now - reader->heard > QUIET_TIME;
    if (reader->ended || quiet || now - reader->begun > TIME_MAX)
        finish(reader);
}

static void on_up(void *context) {
    struct state_reader *reader = context;
    reader->heard = uv_now(reader->timer.loop);
}

static void ignore(void *context) {
}

static void ignore_published(void *context, int mid, enum mqtt_answer answer, const char *reason) {
}

static void on_received(void *context, const struct mqtt_received *received) {
    struct state_reader *reader = context;
    const char *end = reader->subscriptions[FILTERS - 1].filter;
    size_t prefix = strlen(reader->config.mqtt.topic_prefix) + strlen("/state/gw/");
    reader->heard = uv_now(reader->timer.loop);
    reader->count++;
    reader->ended = reader->ended || strcmp(received->topic, end) == 0;
    if (reader->ended)
        uv_timer_start(&reader->timer, on_timer, 0, INTERVAL); // not from here: the link would be gone
    else if (strlen(received->topic) > prefix)
        state_received(reader->gateway, received->topic + prefix, received);
}

static const struct mqtt_link_handlers handlers = {.purpose = "what it retains",
                                                   .connected = ignore,
                                                   .up = on_up,
                                                   .down = ignore,
                                                   .published = ignore_published,
                                                   .received = on_received};

__attribute__((format(printf, 2, 3))) static char *make_text(const char *prefix, const char *format, ...) {
    char *rest, *text;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&rest, format, arguments) < 0 || asprintf(&text, "%s%s", prefix, rest) < 0)
        must_have(NULL);
    va_end(arguments);
    free(rest);
    return text;
}

// Identities come first, because the rest is of use only for devices that are known; what we have published
// just now comes last.
struct state_reader *state_reader_new(struct gateway *gateway) {
    struct state_reader *reader = must_have(calloc(1, sizeof *reader));
    const char *prefix = gateway->config->mqtt.topic_prefix, *client_id = gateway->config->mqtt.client_id;
    reader->gateway = gateway;
    reader->config = *gateway->config;
    reader->config.mqtt.client_id = make_text(client_id, "-reader");
    reader->subscriptions[0].filter = make_text(prefix, "/state/gw/devices/+");
    reader->subscriptions[1].filter = make_text(prefix, "/state/gw/devices/+/connected");
    reader->subscriptions[2].filter = make_text(prefix, "/state/gw/devices/+/telemetry/timestamp");
    reader->subscriptions[3].filter = make_text(prefix, "/state/gw/instances/%s", client_id);
    reader->link = mqtt_link_new(&gateway->loop, &reader->config, reader->subscriptions, FILTERS, false, NULL,
                                 NULL, &handlers, reader);
    uv_timer_init(&gateway->loop, &reader->timer);
    reader->timer.data = reader;
    reader->begun = uv_now(&gateway->loop);
    uv_timer_start(&reader->timer, on_timer, INTERVAL, INTERVAL);
    mqtt_link_start(reader->link);
    return reader;
}

void state_reader_stop(struct state_reader *reader) {
    if (reader == NULL || reader->stopped)
        return;
    reader->stopped = true;
    mqtt_link_stop(reader->link);
    uv_close((uv_handle_t *)&reader->timer, NULL);
}

void state_reader_free(struct state_reader *reader) {
    if (reader == NULL)
        return;
    mqtt_link_free(reader->link);
    for (size_t i = 0; i < FILTERS; i++)
        free(reader->subscriptions[i].filter);
    free((char *)reader->config.mqtt.client_id);
    free(reader);
}

bool state_reader_is_connecting(const struct state_reader *reader) {
    return reader != NULL && mqtt_link_is_connecting(reader->link);
}
