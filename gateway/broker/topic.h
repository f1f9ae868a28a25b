// The topic scheme: every level that stands in a topic, once. Topics are put together from these by the
// compiler: TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_CONNECTED is "state/gw/devices/%lld/connected", to which
// the bus adds the prefix.
#pragma once

// What the topic is for; {prefix}/ stands before it.
#define TOPIC_MESSAGE "message/gw/"
#define TOPIC_COMMAND "command/gw/"
#define TOPIC_STATE   "state/gw/"
#define TOPIC_LOG     "log/gw/"

// Of what; an id follows.
#define TOPIC_DEVICES   "devices/"
#define TOPIC_CHANNELS  "channels/"
#define TOPIC_INSTANCES "instances/"

// What of it.
#define TOPIC_CONNECTED    "/connected"
#define TOPIC_DISCONNECTED "/disconnected"
#define TOPIC_TELEMETRY    "/telemetry/"
#define TOPIC_QUEUE        "/commands-queue/"
#define TOPIC_CONNECTIONS  "/connections/"
#define TOPIC_ERROR        "/error"

#define TOPIC_PREFIX_MAX 128  // bytes of mqtt.topic_prefix
#define TOPIC_MAX        1024 // bytes of any topic of ours, with the NUL
