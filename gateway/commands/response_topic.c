// Which response topics a publisher may choose; see response_topic.h.
#include "gateway/commands/response_topic.h"

#include <mosquitto.h>
#include <stdbool.h>
#include <string.h>

#include "gateway/base/text.h"
#include "gateway/broker/topic.h"
#include "gateway/commands/command.h"

static size_t levels_of(const char *topic) {
    size_t levels = 1;
    for (; *topic != '\0'; topic++)
        levels += *topic == '/';
    return levels;
}

// Whether the topic is tree, or lies below it.
static bool is_below(const char *topic, const char *tree) {
    const char *rest = topic_after(topic, tree);
    return rest != NULL && (*rest == '\0' || *rest == '/');
}

static bool is_ours(const struct config *config, const char *topic) {
    return is_below(topic, config->mqtt.topic_prefix) ||
           (config->home_assistant.enabled && is_below(topic, config->home_assistant.prefix));
}

char *response_topic_fault(const struct config *config, const char *topic) {
    size_t length = strlen(topic);
    if (length == 0 || length > COMMAND_TOPIC_MAX)
        return text_format("the response topic has %zu bytes, expected 1 to %d", length, COMMAND_TOPIC_MAX);
    // As the library judges that must publish to it: well-formed, no control characters.
    if (mosquitto_validate_utf8(topic, (int)length) != MOSQ_ERR_SUCCESS)
        return text_format("the response topic is not text in UTF-8 as MQTT wants it");
    if (strpbrk(topic, "+#") != NULL)
        return text_format("the response topic has a wildcard (+ or #)");
    if (*topic == '$')
        return text_format("the response topic begins with $, which is the broker's own");
    if (is_ours(config, topic))
        return text_format("the response topic belongs to the gateway");
    if (levels_of(topic) > RESPONSE_LEVELS_MAX)
        return text_format("the response topic has %zu levels, expected at most %d", levels_of(topic),
                           RESPONSE_LEVELS_MAX);
    return NULL;
}
