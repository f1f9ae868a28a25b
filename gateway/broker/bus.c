// The bus; see bus.h.
#include "gateway/broker/bus.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"

struct bus {
    const char *prefix, *client_id;
    struct outbox *outbox;
    const struct mqtt_carrier *carrier;
};

struct bus *bus_new(const char *prefix, const char *client_id, struct outbox *outbox,
                    const struct mqtt_carrier *carrier) {
    struct bus *bus = must_have(malloc(sizeof *bus));
    assert(strlen(prefix) <= TOPIC_PREFIX_MAX); // the configuration's schema sees to that
    *bus = (struct bus){.prefix = prefix, .client_id = client_id, .outbox = outbox, .carrier = carrier};
    return bus;
}

void bus_free(struct bus *bus) {
    free(bus);
}

// --- to the broker ---

uint64_t bus_publish_measured(const struct bus *bus, const char *topic, const char *text, size_t length,
                              enum mqtt_retain retain, int64_t measured) {
    if (outbox_is_full(bus->outbox))
        return 0;
    return outbox_put(bus->outbox, &(struct mqtt_publish){.topic = topic,
                                                          .payload = text,
                                                          .length = length,
                                                          .qos = 1,
                                                          .retain = retain,
                                                          .measured = measured});
}

uint64_t bus_publish_text(const struct bus *bus, const char *topic, const char *text, size_t length,
                          enum mqtt_retain retain) {
    return bus_publish_measured(bus, topic, text, length, retain, 0);
}

__attribute__((format(printf, 3, 0))) static void write_topic(const struct bus *bus, char topic[TOPIC_MAX],
                                                              const char *format, va_list arguments) {
    char *rest = stpcpy(stpcpy(topic, bus->prefix), "/");
    vsnprintf(rest, TOPIC_MAX - (size_t)(rest - topic), format, arguments);
}

// NULL for an empty payload.
static char *text_of(const json_t *payload, size_t *length) {
    char *text = payload != NULL ? text_of_json(payload, TEXT_TIME_DIGITS) : NULL;
    *length = text != NULL ? strlen(text) : 0;
    return text;
}

uint64_t bus_publish(const struct bus *bus, const json_t *payload, enum mqtt_retain retain,
                     const char *format, ...) {
    char topic[TOPIC_MAX];
    va_list arguments;
    if (outbox_is_full(bus->outbox))
        return 0;
    va_start(arguments, format);
    write_topic(bus, topic, format, arguments);
    va_end(arguments);
    size_t length;
    char *text = text_of(payload, &length);
    uint64_t number = bus_publish_text(bus, topic, text, length, retain);
    free(text);
    return number;
}

static void say(const struct bus *bus, const struct mqtt_publish *publish, bool last) {
    int mid;
    if (last)
        bus->carrier->publish(bus->carrier->context, publish, &mid);
    else
        outbox_say(bus->outbox, publish);
}

__attribute__((format(printf, 4, 0))) static void say_json(const struct bus *bus, const json_t *payload,
                                                           bool last, const char *format, va_list arguments) {
    char topic[TOPIC_MAX];
    struct mqtt_publish publish = {.topic = topic, .qos = 1, .retain = MQTT_RETAINED, .urgent = true};
    char *text = text_of(payload, &publish.length);
    write_topic(bus, topic, format, arguments);
    publish.payload = text;
    say(bus, &publish, last);
    free(text);
}

void bus_say(const struct bus *bus, const json_t *payload, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say_json(bus, payload, false, format, arguments);
    va_end(arguments);
}

void bus_publish_last(const struct bus *bus, const json_t *payload, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say_json(bus, payload, true, format, arguments);
    va_end(arguments);
}

void bus_hold(const struct bus *bus) {
    if (bus->carrier->hold != NULL)
        bus->carrier->hold(bus->carrier->context);
}

void bus_release(const struct bus *bus) {
    if (bus->carrier->release != NULL)
        bus->carrier->release(bus->carrier->context);
}

bool bus_is_held(const struct bus *bus) {
    return bus->carrier->is_held != NULL && bus->carrier->is_held(bus->carrier->context);
}

void bus_enough(const struct bus *bus) {
    if (bus->carrier->enough != NULL)
        bus->carrier->enough(bus->carrier->context);
}

void bus_flush(const struct bus *bus) {
    if (bus->carrier->flush != NULL)
        bus->carrier->flush(bus->carrier->context);
}

bool bus_is_up(const struct bus *bus) {
    return bus->carrier->is_up(bus->carrier->context);
}

bool bus_keeps_up(const struct bus *bus) {
    return outbox_keeps_up(bus->outbox);
}

uint64_t bus_last_number(const struct bus *bus) {
    return outbox_last_number(bus->outbox);
}

bool bus_has_taken(const struct bus *bus, uint64_t number) {
    return outbox_has_taken(bus->outbox, number);
}

bool bus_is_full(const struct bus *bus) {
    return outbox_is_full(bus->outbox);
}

size_t bus_set_aside_count(const struct bus *bus) {
    return outbox_set_aside_count(bus->outbox);
}

// --- names ---

const char *bus_prefix(const struct bus *bus) {
    return bus->prefix;
}

const char *bus_client_id(const struct bus *bus) {
    return bus->client_id;
}

bool bus_is_own(const struct bus *bus, const char *client_id) {
    return client_id != NULL && strcmp(client_id, bus->client_id) == 0;
}

char *bus_topic(const struct bus *bus, char *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_topic(bus, text, format, arguments);
    va_end(arguments);
    return text;
}

const char *bus_topic_after(const struct bus *bus, const char *topic, const char *kind) {
    const char *rest = topic_after(topic, bus->prefix);
    return rest != NULL && *rest == '/' ? topic_after(rest + 1, kind) : NULL;
}

const char *bus_after_own(const struct bus *bus, const char *topic) {
    const char *rest = topic_after(topic, bus->client_id);
    return rest != NULL && *rest == '/' ? rest : NULL;
}
