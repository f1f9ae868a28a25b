// The configuration: what is accepted is complete and in range, and what is rejected has a reason.
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/config/config.h"
#include "schema/utf8.h"
#include "tests/fuzz/fuzz.h"

static void count_fault(void *context, const char *path, const char *problem) {
    unsigned *faults = context;
    ++*faults;
    if (*path == '\0' || *problem == '\0' || !utf8_valid(problem, strlen(problem)))
        fuzz_fail("a fault that is no text");
}

static void check_range(const char *what, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most)
        fuzz_fail("%s is %lld", what, (long long)value);
}

static void check_channels(const struct config *config) {
    for (size_t i = 0; i < config->channel_count; i++) {
        const struct config_channel *channel = &config->channels[i];
        check_range("a channel's id", channel->id, 1, INT64_MAX);
        if (channel->codec == NULL || channel->name == NULL || !(channel->has_tcp || channel->has_udp))
            fuzz_fail("a channel without codec, name or address");
        for (size_t j = 0; j < i; j++)
            if (config->channels[j].id == channel->id)
                fuzz_fail("two channels with the id %lld", (long long)channel->id);
    }
}

static void check_devices(const struct config *config) {
    for (size_t i = 0; i < config->devices->count; i++) {
        const struct config_device *device = &config->devices->list[i];
        if (device->ident == NULL || strlen(device->ident) > CODEC_IDENT_MAX || device->name == NULL)
            fuzz_fail("a device without ident or name");
        for (size_t j = 0; j < i; j++)
            if (config->devices->list[j].id == device->id ||
                strcmp(config->devices->list[j].ident, device->ident) == 0)
                fuzz_fail("the device %s twice", device->ident);
    }
}

static void check_mqtt(const struct config *config) {
    static const char of_url[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/.-_[]";
    const json_t *urls = json_object_get(json_object_get(config->json, "mqtt"), "url");
    size_t count = json_is_array(urls) ? json_array_size(urls) : 1;
    for (size_t i = 0; i < count; i++) {
        const char *url = json_string_value(json_is_array(urls) ? json_array_get(urls, i) : urls);
        if (url[strspn(url, of_url)] != '\0')
            fuzz_fail("the URL %s was taken", url);
    }
    if (config->mqtt.broker_count != count)
        fuzz_fail("%zu brokers of %zu URLs", config->mqtt.broker_count, count);
    if (config->mqtt.host == NULL || *config->mqtt.host == '\0')
        fuzz_fail("the broker has no host");
    if (config->mqtt.client_id == NULL || config->mqtt.topic_prefix == NULL)
        fuzz_fail("the broker has no client id or prefix");
    check_range("the broker's port", config->mqtt.port, 1, 65535);
    check_range("qos", config->mqtt.qos, 0, 1);
    check_range("inflight", config->mqtt.inflight, 1, 65535);
}

static void check_config(const struct config *config) {
    check_channels(config);
    check_devices(config);
    check_mqtt(config);
    if (!config->on_channels && !config->on_devices)
        fuzz_fail("messages go nowhere");
    check_range("connections", config->limits.connections, 1, 1000000);
    check_range("connections_per_address", config->limits.connections_per_address, 1, 1000000);
    check_range("idle_timeout", config->limits.idle_timeout, 1, 604800);
    check_range("identify_timeout", config->limits.identify_timeout, 1, 604800);
    check_range("ttl", config->commands.ttl, 1, 31536000);
    check_range("timeout", config->commands.timeout, 1, 86400);
    check_range("max_attempts", config->commands.max_attempts, 1, 100);
    check_range("udp_reachable", config->commands.udp_reachable, 1, 86400);
}

// The text without the names of files to open; for the caller to free. Text that is no JSON stays as it is.
static char *without_files(const uint8_t *bytes, size_t length, size_t *kept) {
    char *text = malloc(length + 1);
    memcpy(text, bytes, length);
    *kept = length;
    json_t *json = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    if (json == NULL)
        return text;
    free(text);
    json_object_del(json, "devices_file");
    json_object_del(json_object_get(json, "mqtt"), "password_file");
    text = json_dumps(json, JSON_ENCODE_ANY);
    json_decref(json);
    *kept = strlen(text);
    return text;
}

void fuzz_config(const uint8_t *bytes, size_t length) {
    size_t kept;
    unsigned faults = 0;
    char *text = without_files(bytes, length, &kept);
    struct config *config = config_parse(text, kept, count_fault, &faults);
    if ((config == NULL) != (faults > 0))
        fuzz_fail("%u faults, and %s configuration", faults, config == NULL ? "no" : "a");
    if (config != NULL)
        check_config(config);
    config_free(config);
    free(text);
}
