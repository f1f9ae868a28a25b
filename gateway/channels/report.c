// A report goes out; see report.h.
#include "gateway/channels/report.h"

#include <string.h>

// A message as JSON, and when it was measured.
struct text {
    const char *json;
    size_t length;
    int64_t timestamp;
    bool background;
};

static void put(const struct channel_parts *parts, const char *topic, const struct text *text,
                struct report_numbers *numbers) {
    uint64_t number = outbox_put(parts->outbox, &(struct mqtt_publish){.topic = topic,
                                                                       .payload = text->json,
                                                                       .length = text->length,
                                                                       .qos = parts->config->mqtt.qos,
                                                                       .measured = text->timestamp,
                                                                       .background = text->background});
    if (numbers->first == 0)
        numbers->first = number;
    numbers->last = number;
}

// {prefix}{middle}{id}; returns its end. Not by printf, as this is done for every message.
static char *put_topic(char topic[TOPIC_MAX], const struct config *config, const char *middle,
                       struct decimal id) {
    char *end = stpcpy(stpcpy(topic, config->mqtt.topic_prefix), middle);
    return end + decimal_write(id, end);
}

static struct report_numbers put_on_topics(const struct channel_parts *parts,
                                           const struct report_origin *origin,
                                           const struct message_value *device_id, const struct text *text) {
    const struct config *config = parts->config;
    struct report_numbers numbers = {.first = 0};
    char topic[TOPIC_MAX];
    if (config->on_channels || device_id == NULL) {
        char *end =
            put_topic(topic, config, "/" TOPIC_MESSAGE TOPIC_CHANNELS, decimal_integer(origin->channel_id));
        stpcpy(stpcpy(end, "/"), origin->ident);
        put(parts, topic, text, &numbers);
    }
    if (config->on_devices && device_id != NULL) {
        put_topic(topic, config, "/" TOPIC_MESSAGE TOPIC_DEVICES, device_id->number);
        put(parts, topic, text, &numbers);
    }
    return numbers;
}

struct report_numbers report_publish(const struct channel_parts *parts, const struct report_origin *origin,
                                     const struct message *message) {
    static char json[MESSAGE_JSON_MAX];
    static struct message_member members[MESSAGE_VALUES_MAX];
    size_t count, length = message_write_members(message, json, sizeof json, members, &count);
    const struct text text = {
        .json = json,
        .length = length,
        .timestamp = decimal_at(message_get(message, FIELD_TIMESTAMP)->number, 6),
        .background = origin->background,
    };
    struct report_numbers numbers =
        put_on_topics(parts, origin, message_get(message, FIELD_DEVICE_ID), &text);
    const struct channel_report report = {
        .members = members, .count = count, .timestamp = text.timestamp, .received = origin->received};
    parts->observer->reported(parts->observer->context, origin->session, &report);
    return numbers;
}
