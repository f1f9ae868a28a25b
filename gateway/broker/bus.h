// The bus: JSON to topics under the prefix, and topics taken apart again.
#pragma once

#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#include "gateway/broker/mqtt.h"
#include "gateway/broker/outbox.h"
#include "gateway/broker/topic.h"

struct bus;

// prefix is mqtt.topic_prefix, client_id says which instance we are; both stay the caller's, as do outbox and
// carrier.
struct bus *bus_new(const char *prefix, const char *client_id, struct outbox *outbox,
                    const struct mqtt_carrier *carrier);
void bus_free(struct bus *bus);

// --- to the broker ---

// Publishes JSON (NULL: an empty payload) to {prefix}/{topic…}, by way of the outbox. For logs and state:
// nothing is put into a full outbox. Returns its number in the outbox, 0 when that is full.
__attribute__((format(printf, 4, 5))) uint64_t bus_publish(const struct bus *bus, const json_t *payload,
                                                           enum mqtt_retain retain, const char *topic, ...);
// The same for text, which is copied, to a topic given in full, with its prefix.
uint64_t bus_publish_text(const struct bus *bus, const char *topic, const char *text, size_t length,
                          enum mqtt_retain retain);
// The same for what was measured at that time (microseconds since 1970), which goes with it.
uint64_t bus_publish_measured(const struct bus *bus, const char *topic, const char *text, size_t length,
                              enum mqtt_retain retain, int64_t measured);

// Publishes what the instance says about itself (JSON; NULL: an empty payload), retained, before all that
// waits; see outbox_say().
__attribute__((format(printf, 3, 4))) void bus_say(const struct bus *bus, const json_t *payload,
                                                   const char *topic, ...);
// The same for the last word of a connection, which nothing waits for: it goes straight to the broker.
__attribute__((format(printf, 3, 4))) void bus_publish_last(const struct bus *bus, const json_t *payload,
                                                            const char *topic, ...);

// hold(), release() and flush() of struct mqtt_carrier.
void bus_hold(const struct bus *bus);
void bus_release(const struct bus *bus);
bool bus_is_held(const struct bus *bus);
void bus_enough(const struct bus *bus);
void bus_flush(const struct bus *bus);

bool bus_is_up(const struct bus *bus); // the broker is connected
// Whether what is published now will soon be with the broker; see outbox_keeps_up().
bool bus_keeps_up(const struct bus *bus);
// The number of the message that was put last, and whether the broker has that one and all before it.
uint64_t bus_last_number(const struct bus *bus);
bool bus_has_taken(const struct bus *bus, uint64_t number);
bool bus_is_full(const struct bus *bus);           // nothing more is put into the outbox
size_t bus_set_aside_count(const struct bus *bus); // see outbox_set_aside_count()

// --- names ---

const char *bus_prefix(const struct bus *bus);
const char *bus_client_id(const struct bus *bus);

// Whether client_id is ours; false for NULL.
bool bus_is_own(const struct bus *bus, const char *client_id);

// Writes {prefix}/{topic…} to text of TOPIC_MAX bytes; returns text.
__attribute__((format(printf, 3, 4))) char *bus_topic(const struct bus *bus, char *text, const char *topic,
                                                      ...);

// What follows {prefix}/{kind} in a topic, or NULL when it is another topic.
const char *bus_topic_after(const struct bus *bus, const char *topic, const char *kind);

// topic is what follows {prefix}/state/gw/instances/. Returns what follows our client_id in it, slash
// included; NULL for the topic of another instance, and for our own without anything behind it.
const char *bus_after_own(const struct bus *bus, const char *topic);
