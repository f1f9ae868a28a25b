// The topic scheme: each level that occurs in a topic, once. Topics are put together from these by the
// compiler: TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_CONNECTED is "state/gw/devices/%lld/connected", to which
// the bus adds the prefix.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// What the topic is for; {prefix}/ stands before it.
#define TOPIC_MESSAGE  "message/gw/"
#define TOPIC_COMMAND  "command/gw/"
#define TOPIC_STATE    "state/gw/"
#define TOPIC_LOG      "log/gw/"
#define TOPIC_REQUEST  "request/gw/"
#define TOPIC_REGISTRY "registry/gw/"

// What it belongs to; an id follows.
#define TOPIC_DEVICES   "devices/"
#define TOPIC_CHANNELS  "channels/"
#define TOPIC_INSTANCES "instances/"
#define TOPIC_CAPTURES  "captures/" // nothing: what becomes of them

// Which part of it.
#define TOPIC_CONNECTED    "/connected"
#define TOPIC_ACTIVE       "/last_active"
#define TOPIC_ALARMS       "/alarms"
#define TOPIC_HOLDER       "/instance"  // of a device: which instance it is or was connected to
#define TOPIC_DISCOVERY    "/discovery" // in names of our own: what is for Home Assistant
#define TOPIC_DISCONNECTED "/disconnected"
#define TOPIC_TELEMETRY    "/telemetry/"
#define TOPIC_QUEUE        "/commands-queue/"
#define TOPIC_CONNECTIONS  "/connections/"
#define TOPIC_ERROR        "/error"
#define TOPIC_CAPTURE      "capture"     // behind TOPIC_REQUEST
#define TOPIC_SYNC         "/sync"       // of our own instance: the question of the roll call
#define TOPIC_MARK         "/mark"       // the same: behind a question for telemetry
#define TOPIC_MARKER       "/queue"      // the same: up to which command the broker has the entries
#define TOPIC_GENERATION   "/generation" // the same: up to which generation it has our state
#define TOPIC_METRICS      "/metrics"    // of an instance: its numbers

#define TOPIC_REFUSED "registry/error" // behind TOPIC_LOG: a device of the registry that is not taken

#define TOPIC_POSITION "position" // in place of a field, behind TOPIC_TELEMETRY

#define TOPIC_PREFIX_MAX 128  // bytes of mqtt.topic_prefix
#define TOPIC_MAX        1024 // bytes of any topic of ours, with the NUL

// What follows start in text, or NULL when text does not begin with it.
const char *topic_after(const char *text, const char *start);

// Reads the id that text begins with: a number of at most 53 bits, so that it is exact in every JSON reader.
// *end is set to what follows it. False when there is none.
bool topic_read_id(const char *text, int64_t *id, const char **end);
