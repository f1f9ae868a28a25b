// The gateway's subscriptions; see subscriptions.h.
#include "gateway/run/subscriptions.h"

#include <stdlib.h>

#include "gateway/base/libmosquitto.h"
#include "gateway/base/text.h"
#include "gateway/broker/topic.h"

__attribute__((format(printf, 4, 5))) static void add(struct subscriptions *subscriptions, int qos,
                                                      int options, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    subscriptions->list[subscriptions->count++] =
        (struct mqtt_subscription){.filter = text_vformat(format, arguments), .qos = qos, .options = options};
    va_end(arguments);
}

// The gateway's own device has topics without a node in between.
static void add_announced(struct subscriptions *list, const struct config *config, int options) {
    const char *prefix = config->home_assistant.prefix;
    if (config->home_assistant.discovery == DISCOVERY_DEVICE) {
        add(list, 0, options, "%s/device/+/config", prefix);
        return;
    }
    add(list, 0, options, "%s/+/+/+/config", prefix);
    add(list, 0, options, "%s/+/+/config", prefix);
}

// What others write to topics that may be ours: where devices are, and what has to be put right. Telemetry is
// heard as state/ decides.
static void add_written_by_others(struct subscriptions *list, const struct config *config) {
    const int options = MQTT_SUB_OPT_NO_LOCAL | MQTT_SUB_OPT_SEND_RETAIN_NEVER;
    const char *prefix = config->mqtt.topic_prefix;
    add(list, 0, options, "%s/" TOPIC_STATE TOPIC_DEVICES "+" TOPIC_HOLDER, prefix);
    add(list, 0, options, "%s/" TOPIC_STATE TOPIC_DEVICES "+" TOPIC_CONNECTED, prefix);
    add(list, 0, options, "%s/" TOPIC_STATE TOPIC_DEVICES "+", prefix);
    add(list, 0, options, "%s/" TOPIC_STATE TOPIC_CHANNELS "+", prefix);
    if (config->home_assistant.enabled)
        add_announced(list, config, options);
}

static void add_commands(struct subscriptions *list, const char *prefix) {
    add(list, 1, MQTT_SUB_OPT_SEND_RETAIN_NEVER, "%s/" TOPIC_COMMAND "#", prefix);
    list->commands = list->list[list->count - 1].filter;
}

// Our own first, because a broker with a full queue drops what comes later. A command that somebody retained
// by mistake would come again at every connection: no retained ones. The entries of the queue are wanted with
// those that we wrote ourselves, which tells that the broker has them. Where devices and what other instances
// were while we were away does not matter: QoS 0.
void subscriptions_fill(struct subscriptions *list, const struct config *config) {
    const char *prefix = config->mqtt.topic_prefix;
    bool intake = config->commands.intake;
    add(list, 1, 0, "%s/" TOPIC_STATE TOPIC_INSTANCES "%s/#", prefix, config->mqtt.client_id);
    list->own = list->list[0].filter;
    if (intake)
        add_commands(list, prefix);
    add(list, 1, 0, "%s/" TOPIC_STATE TOPIC_DEVICES "+" TOPIC_QUEUE "+", prefix);
    add(list, 1, 0, "%s/" TOPIC_STATE TOPIC_CHANNELS "+/+" TOPIC_QUEUE "+", prefix);
    add(list, 0, 0, "%s/" TOPIC_STATE TOPIC_INSTANCES "+", prefix);
    if (intake)
        add(list, 0, 0, "%s/" TOPIC_STATE TOPIC_INSTANCES "+/" TOPIC_CHANNELS "+", prefix);
    add_written_by_others(list, config);
    add(list, 0, MQTT_SUB_OPT_SEND_RETAIN_NEVER, "%s/" TOPIC_LOG TOPIC_DEVICES "+" TOPIC_CONNECTED, prefix);
    // One that was asked for while we were away is over when we are back.
    add(list, 0, MQTT_SUB_OPT_SEND_RETAIN_NEVER, "%s/" TOPIC_REQUEST TOPIC_CAPTURE, prefix);
    // There may be very many, so behind all else that is retained, and with QoS 0, of which a broker's queue for a client
    // takes more. Also what we write: of several gateways one gives an entry back, and all take what then stands there.
    add(list, 0, 0, "%s/" TOPIC_REGISTRY TOPIC_DEVICES "+", prefix);
    if (config->home_assistant.enabled)
        add(list, 0, MQTT_SUB_OPT_SEND_RETAIN_NEVER, "%s/status", config->home_assistant.prefix);
}

void subscriptions_free(struct subscriptions *subscriptions) {
    for (size_t i = 0; i < subscriptions->count; i++)
        free(subscriptions->list[i].filter);
}
