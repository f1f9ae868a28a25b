// Reading what is retained; see reader.h.
#include "gateway/state/reader.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/bus.h"
#include "gateway/broker/mqtt_link.h"
#include "gateway/state/home_assistant.h"
#include "gateway/state/home_assistant_gateway.h"
#include "gateway/state/together.h"

#define INTERVAL   100   // milliseconds between looks at the time
#define QUIET_TIME 1000  // milliseconds without a message after which the last one is asked for again
#define SLOW_TIME  2000  // and after which the broker is called slow, when it goes on
#define MAIN_TIME  5000  // and after which the main connection asks
#define GIVE_UP    10000 // and after which nothing more is expected

#define DOWNS_MAX 2 // that the second connection may be lost

enum { FILTERS_MAX = 32 };

struct state_reader {
    struct state_reader_handlers handlers;
    const struct bus *bus;
    struct mqtt_asker asker; // of the main connection
    struct config config;    // the gateway's, but for the client_id
    char *client_id;         // config's
    char *base;              // {prefix}/state/gw/
    struct mqtt_link *link;
    struct mqtt_subscription subscriptions[FILTERS_MAX];
    size_t filters;
    uv_timer_t timer;
    uint64_t heard;   // something retained, or that we are connected; by uv_now()
    uint64_t longest; // silence before the broker went on, in milliseconds
    size_t count;     // of what is retained for devices
    bool link_stopped;
    bool asks_main; // the main connection is to ask, instead of the link
    bool asked;     // it has
    bool again;     // the last one was asked for again, and nothing but it has come since
    bool refused;   // the second connection was, which is in the log
    bool ended;     // what is retained last has come
    unsigned downs; // of the link
    bool stopped;
};

static uint64_t silence(const struct state_reader *reader) {
    return uv_now(reader->timer.loop) - reader->heard;
}

static const char *last_filter(const struct state_reader *reader) {
    return reader->subscriptions[reader->filters - 1].filter;
}

static void stop_link(struct state_reader *reader) {
    if (!reader->link_stopped)
        mqtt_link_stop(reader->link);
    reader->link_stopped = true;
}

// --- the end ---

// When nothing comes at all, the roll call knows why.
static void say_what_is_missing(const struct state_reader *reader) {
    if (reader->count > 0)
        log_warning(
            "the broker told %zu of the topics that it retains for devices, and then nothing for %d s: "
            "of others, what an earlier run left behind stays as it is",
            reader->count, GIVE_UP / 1000);
}

// What is not known is not guessed.
static void say_how_it_went(const struct state_reader *reader) {
    if (reader->asks_main && !reader->refused)
        log_warning(
            "the broker told nothing on a second connection with the client id '%s': what it retains was "
            "read on the first one",
            reader->client_id);
    else if (reader->again && reader->count > 0)
        log_warning("the broker left out some of what it retains for devices, %zu topics came: its queue for "
                    "one client is too short (in Mosquitto: max_queued_messages)",
                    reader->count);
    else if (reader->longest > SLOW_TIME)
        log_warning("the broker was slow to tell what it retains: the state of devices waited %.1f s for it",
                    (double)reader->longest / 1000);
}

static void leave_main(struct state_reader *reader) {
    for (size_t i = 0; i < reader->filters && reader->asked; i++)
        reader->asker.unsubscribe(reader->asker.context, reader->subscriptions[i].filter);
    reader->asked = false;
}

static void finish(struct state_reader *reader) {
    if (reader->ended)
        say_how_it_went(reader);
    else
        say_what_is_missing(reader);
    leave_main(reader);
    state_reader_stop(reader);
    reader->handlers.answered(reader->handlers.context);
}

// --- asking ---

static void ask_main(struct state_reader *reader) {
    stop_link(reader);
    for (size_t i = 0; i < reader->filters; i++)
        if (!reader->asker.subscribe(reader->asker.context, reader->subscriptions[i].filter))
            return; // it has gone, and is asked again when it is back
    reader->asked = true;
    reader->again = false;
}

// A broker whose queue is full drops what comes last, and answers to subscriptions with it; asked again it has room.
// One that is slow sends the last one behind all else in any case.
static void ask_again_for_the_last(struct state_reader *reader) {
    reader->again = true;
    if (reader->asks_main)
        reader->asker.subscribe(reader->asker.context, last_filter(reader));
    else
        mqtt_link_subscribe(reader->link, last_filter(reader));
}

static void wait_on(struct state_reader *reader) {
    uint64_t quiet = silence(reader);
    if (quiet > QUIET_TIME && !reader->again)
        ask_again_for_the_last(reader);
    if (quiet > MAIN_TIME)
        reader->asks_main = true;
}

// What the main connection hears besides may be the last topic too, so there it is no end by itself.
static bool is_done(const struct state_reader *reader) {
    return silence(reader) > (reader->ended ? QUIET_TIME : GIVE_UP);
}

static void take_refusal(struct state_reader *reader, const char *what, const char *why) {
    if (reader->asks_main)
        return;
    reader->asks_main = reader->refused = true;
    log_warning(
        "the broker does not take a second connection with the client id '%s': %s%s; what it retains is "
        "read on the first one",
        reader->client_id, what, why);
}

static void wait_for_main(struct state_reader *reader) {
    reader->asked = reader->again = reader->ended = false;
    reader->heard = uv_now(reader->timer.loop);
}

static void on_timer(uv_timer_t *timer) {
    struct state_reader *reader = timer->data;
    if (reader->ended && !reader->asks_main) {
        finish(reader);
    } else if (!bus_is_up(reader->bus)) {
        wait_for_main(reader);
    } else if (is_done(reader)) {
        finish(reader);
    } else if (reader->asks_main && !reader->asked) {
        ask_main(reader);
    } else if (!reader->ended) {
        wait_on(reader);
    }
}

// Not from where the link calls: it would be gone.
static void look_at_once(struct state_reader *reader) {
    uv_timer_start(&reader->timer, on_timer, 0, INTERVAL);
}

// --- what is heard ---

static void hear(struct state_reader *reader, const char *topic, const struct mqtt_received *received) {
    if (!received->retain)
        return;
    if (silence(reader) > reader->longest)
        reader->longest = silence(reader);
    reader->heard = uv_now(reader->timer.loop);
    if (topic_after(topic, TOPIC_DEVICES) != NULL) {
        reader->count++;
        reader->again = false;
    }
    if (strcmp(received->topic, last_filter(reader)) == 0) {
        reader->ended = true;
        look_at_once(reader);
    }
}

void state_reader_received(struct state_reader *reader, const char *topic,
                           const struct mqtt_received *received) {
    if (reader != NULL && reader->asked && !reader->stopped)
        hear(reader, topic, received);
}

static void on_received(void *context, const struct mqtt_received *received) {
    struct state_reader *reader = context;
    const char *topic = topic_after(received->topic, reader->base);
    if (topic == NULL) {
        reader->heard = uv_now(reader->timer.loop);
        reader->handlers.discovered(reader->handlers.context, received);
        return;
    }
    hear(reader, topic, received);
    reader->handlers.received(reader->handlers.context, topic, received);
}

static void on_up(void *context) {
    struct state_reader *reader = context;
    reader->heard = uv_now(reader->timer.loop);
    reader->again = false;
    if (mqtt_link_retains(reader->link))
        return;
    reader->ended = true; // there is nothing to tell
    look_at_once(reader);
}

// --- a broker that does not want the second connection ---

static bool on_failed(void *context, const char *why) {
    struct state_reader *reader = context;
    if (!bus_is_up(reader->bus))
        return false; // it may be the network
    take_refusal(reader, "", why);
    look_at_once(reader);
    return true;
}

static void on_granted(void *context, const struct mqtt_subscription *subscription, bool granted) {
    if (granted)
        return;
    take_refusal(context, "it rejects the subscription to ", subscription->filter);
    look_at_once(context);
}

static void ignore(void *context) {
}

// One that takes the two connections for one ends the other whenever one comes.
static void on_down(void *context, enum mqtt_end end) {
    struct state_reader *reader = context;
    if (++reader->downs < DOWNS_MAX || !bus_is_up(reader->bus))
        return;
    take_refusal(reader, "it ends it again and again", "");
    look_at_once(reader);
}

static void ignore_published(void *context, int mid, enum mqtt_answer answer, const char *reason) {
}

static const struct mqtt_link_handlers link_handlers = {.purpose = "what it retains",
                                                        .connected = ignore,
                                                        .up = on_up,
                                                        .down = on_down,
                                                        .published = ignore_published,
                                                        .received = on_received,
                                                        .granted = on_granted,
                                                        .failed = on_failed};

// --- making and taking apart ---

static void add(struct state_reader *reader, char *filter) {
    reader->subscriptions[reader->filters++].filter = filter;
}

static void add_of_devices(struct state_reader *reader, const char *rest) {
    add(reader, text_format("%s" TOPIC_DEVICES "+%s", reader->base, rest));
}

// Which fields a device has reported, where it is announced with all of them at once.
static void add_reported(struct state_reader *reader, const struct config *config) {
    bool any = config->home_assistant.enabled && config->home_assistant.discovery == DISCOVERY_DEVICE &&
               config->telemetry == TELEMETRY_PARAMETERS;
    for (enum field field = FIELD_NONE + 1; any && field < FIELD_COUNT; field++)
        if (home_assistant_entity_of(field) != 0 &&
            field != FIELD_TIMESTAMP) // which is asked for in any case
            add(reader, text_format("%s" TOPIC_DEVICES "+" TOPIC_TELEMETRY "%s", reader->base,
                                    field_table[field].key));
}

// One topic of each device that is announced as the configuration does not say.
static void add_discovered(struct state_reader *reader, const struct config *config) {
    if (!config->home_assistant.enabled)
        return;
    if (config->home_assistant.discovery == DISCOVERY_DEVICE) {
        add(reader, text_format("%s/binary_sensor/+/connected/config", config->home_assistant.prefix));
        add(reader, home_assistant_gateway_found_filter(config));
    } else {
        add(reader, text_format("%s/device/+/config", config->home_assistant.prefix));
    }
}

// Whose a device is comes first, then identities, because the rest is of use only for devices that are known; what
// we have published just now comes last.
static void fill_subscriptions(struct state_reader *reader, const struct config *config) {
    add_of_devices(reader, TOPIC_HOLDER);
    add_of_devices(reader, "");
    add_of_devices(reader, TOPIC_CONNECTED);
    add_of_devices(reader, TOPIC_TELEMETRY "timestamp");
    add_of_devices(reader, TOPIC_ACTIVE);
    for (size_t i = 0; i < TOGETHER_FOUND_COUNT; i++)
        add(reader, text_format("%s" TOPIC_DEVICES "+" TOPIC_TELEMETRY "%s", reader->base,
                                field_table[together_found[i]].key));
    add_reported(reader, config);
    add_discovered(reader, config);
    add(reader, text_format("%s" TOPIC_INSTANCES "%s", reader->base, config->mqtt.client_id));
}

static void start(struct state_reader *reader, uv_loop_t *loop) {
    reader->link = mqtt_link_new(loop, &reader->config, reader->subscriptions, reader->filters,
                                 MQTT_SESSION_NONE, NULL, NULL, &link_handlers, reader);
    uv_timer_init(loop, &reader->timer);
    reader->timer.data = reader;
    reader->heard = uv_now(loop);
    uv_timer_start(&reader->timer, on_timer, INTERVAL, INTERVAL);
    mqtt_link_start(reader->link);
}

struct state_reader *state_reader_new(uv_loop_t *loop, const struct config *config, const struct bus *bus,
                                      const struct mqtt_asker *asker,
                                      const struct state_reader_handlers *handlers) {
    struct state_reader *reader = must_have(calloc(1, sizeof *reader));
    reader->handlers = *handlers;
    reader->bus = bus;
    reader->asker = *asker;
    reader->config = *config;
    reader->client_id = text_format("%s-reader", config->mqtt.client_id);
    reader->config.mqtt.client_id = reader->client_id;
    reader->base = text_format("%s/" TOPIC_STATE, config->mqtt.topic_prefix);
    fill_subscriptions(reader, config);
    start(reader, loop);
    return reader;
}

void state_reader_stop(struct state_reader *reader) {
    if (reader == NULL || reader->stopped)
        return;
    reader->stopped = true;
    stop_link(reader);
    uv_close((uv_handle_t *)&reader->timer, NULL);
}

void state_reader_free(struct state_reader *reader) {
    if (reader == NULL)
        return;
    mqtt_link_free(reader->link);
    for (size_t i = 0; i < reader->filters; i++)
        free(reader->subscriptions[i].filter);
    free(reader->client_id);
    free(reader->base);
    free(reader);
}

bool state_reader_is_connecting(const struct state_reader *reader) {
    return reader != NULL && mqtt_link_is_connecting(reader->link);
}
