// Taking in commands; see intake.h.
#include "gateway/commands/intake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/commands/parse.h"
#include "gateway/run/gateway.h"
#include "schema/json_schema.h"

#define PAYLOAD_MAX    262144 // bytes of a publish
#define DEFINITION_MAX 16384  // bytes of one command, as JSON
#define DEPTH_MAX      64     // of objects and arrays in each other, so that what holds it can be read too

// Who a publish is for.
struct address {
    char key[96];
    int64_t device_id;  // -1: none
    int64_t channel_id; // 0: any
    char ident[CODEC_IDENT_MAX + 1];
    const struct codec *codec; // that the device speaks, or NULL where that is not known
};

static const struct config_channel *find_channel(const struct gateway *gateway, int64_t id) {
    for (size_t i = 0; i < gateway->config->channel_count; i++)
        if (gateway->config->channels[i].id == id)
            return &gateway->config->channels[i];
    return NULL;
}

// Reads a number of at most 53 bits, as it may stand in an entry, up to end, which is set to what follows it.
static bool read_id(const char *text, int64_t *id, const char **end) {
    size_t digits = strspn(text, "0123456789");
    *id = strtoll(text, NULL, 10);
    *end = text + digits;
    return digits >= 1 && digits <= 16 && *id < 1LL << 53;
}

static const char *read_device_address(struct gateway *gateway, const char *text, struct address *address) {
    const char *end;
    if (!read_id(text, &address->device_id, &end) || *end != '\0') {
        address->device_id = -1;
        return "device.id is not a number";
    }
    const struct session *session = session_by_device_id(&gateway->sessions, address->device_id);
    const char *ident =
        session != NULL ? session->ident : registry_ident_of(gateway->registry, address->device_id);
    if (ident != NULL)
        strcpy(address->ident, ident);
    if (session != NULL && (session->tcp != NULL || session->udp != NULL))
        address->codec = (session->tcp != NULL ? session->tcp : session->udp)->channel->config->codec;
    snprintf(address->key, sizeof address->key, "devices/%lld", (long long)address->device_id);
    return NULL;
}

static const char *read_channel_address(struct gateway *gateway, const char *text, struct address *address) {
    const char *end;
    if (!read_id(text, &address->channel_id, &end) || *end != '/')
        return "channel.id is not a number";
    if (!device_ident_valid(end + 1))
        return "the ident is not 1 to 32 letters, digits, dots, dashes, underscores";
    const struct config_channel *channel = find_channel(gateway, address->channel_id);
    struct device device = registry_device(gateway->registry, end + 1);
    strcpy(address->ident, end + 1);
    address->device_id = device.known ? device.id : -1;
    if (device.known)
        snprintf(address->key, sizeof address->key, "devices/%lld", (long long)device.id);
    else
        snprintf(address->key, sizeof address->key, "channels/%lld/%s", (long long)address->channel_id,
                 end + 1);
    if (channel == NULL)
        return "there is no channel of that id";
    address->codec = channel->codec;
    return NULL;
}

// NULL, or what is wrong with the topic.
static const char *read_address(struct gateway *gateway, const char *topic, struct address *address) {
    *address = (struct address){.device_id = -1};
    if (strncmp(topic, "devices/", 8) == 0)
        return read_device_address(gateway, topic + 8, address);
    if (strncmp(topic, "channels/", 9) == 0)
        return read_channel_address(gateway, topic + 9, address);
    return "commands go to devices/{device.id} or channels/{channel.id}/{ident}";
}

static int option_of(const json_t *definition, const char *name, int standard) {
    const json_t *value = json_object_get(definition, name);
    return value != NULL ? (int)json_schema_integer(value) : standard;
}

// Takes over definition.
static struct command *make_command(struct gateway *gateway, const struct address *address,
                                    const struct mqtt_received *received, json_t *definition) {
    const struct config *config = gateway->config;
    struct command *command = must_have(calloc(1, sizeof *command));
    command->id = commands_new_id(gateway);
    command->key = must_have(strdup(address->key));
    strcpy(command->ident, address->ident);
    command->device_id = address->device_id;
    command->channel_id = address->channel_id;
    command->definition = definition;
    command->created = gateway_clock();
    command->expires = command->created + option_of(definition, "ttl", config->commands.ttl) * 1000000LL;
    command->max_attempts = option_of(definition, "max_attempts", config->commands.max_attempts);
    command->timeout = option_of(definition, "timeout", 0);
    command->priority = option_of(definition, "priority", 0);
    if (received->response_topic != NULL)
        command->response_topic = must_have(strdup(received->response_topic));
    if (received->correlation != NULL && received->correlation_length <= COMMAND_CORRELATION_MAX) {
        command->correlation = must_have(malloc(received->correlation_length + 1));
        command->correlation_length = received->correlation_length;
        memcpy(command->correlation, received->correlation, received->correlation_length);
    }
    return command;
}

// A refused command was never queued: it has a result and nothing else.
static void refuse(struct gateway *gateway, struct command *command, const char *topic, const char *reason) {
    log_warning("a command to %s is refused: %s", topic, reason);
    command->state = COMMAND_PROCESSED;
    command->result = json_pack("{s:b, s:n, s:s}", "executed", 0, "response", "reason", reason);
    commands_say_result(gateway, command);
    command_free(command);
}

static const char *wrong_with_response(const struct mqtt_received *received) {
    const char *topic = received->response_topic;
    if (topic != NULL &&
        (*topic == '\0' || strlen(topic) > COMMAND_TOPIC_MAX || strpbrk(topic, "+#") != NULL))
        return "the response topic is not 1 to 1024 characters without + and #";
    if (received->correlation != NULL && received->correlation_length > COMMAND_CORRELATION_MAX)
        return "the correlation data has more than 512 bytes";
    return NULL;
}

static bool is_too_large(const json_t *definition) {
    return json_dumpb(definition, NULL, 0, JSON_COMPACT) > DEFINITION_MAX;
}

static bool is_too_deep(const json_t *value, int left) {
    const char *key;
    const json_t *inner;
    size_t i;
    if (left == 0)
        return true;
    json_object_foreach((json_t *)value, key, inner) {
        if (is_too_deep(inner, left - 1))
            return true;
    }
    json_array_foreach(value, i, inner) {
        if (is_too_deep(inner, left - 1))
            return true;
    }
    return false;
}

// What is wrong with a command (for the caller to free), or NULL.
static char *wrong_with(struct gateway *gateway, const struct address *address, json_t *definition) {
    const char *full = commands_full(&gateway->commands, address->key);
    if (is_too_large(definition))
        return must_have(strdup("the command has more than 16384 bytes"));
    if (is_too_deep(definition, DEPTH_MAX))
        return must_have(strdup("the command has more than 64 levels of objects and arrays in each other"));
    char *fault = commands_check(gateway, definition, address->codec);
    return fault == NULL && full != NULL ? must_have(strdup(full)) : fault;
}

static void take_command(struct gateway *gateway, const struct address *address,
                         const struct mqtt_received *received, json_t *definition) {
    char *fault = wrong_with(gateway, address, definition);
    struct command *command = make_command(gateway, address, received, json_incref(definition));
    if (fault != NULL) {
        if (is_too_large(definition) || is_too_deep(definition, DEPTH_MAX))
            json_object_del(command->definition, "meta"), json_object_del(command->definition, "properties");
        refuse(gateway, command, received->topic, fault);
        free(fault);
        return;
    }
    commands_add(gateway, command);
    commands_log(gateway, command, "queued", NULL);
    commands_publish(gateway, command);
    commands_send_next(gateway, address->key);
}

static void refuse_all(struct gateway *gateway, const struct address *address, struct mqtt_received received,
                       const char *reason) {
    if (wrong_with_response(&received) != NULL)
        received.response_topic = NULL;
    if (address->key[0] == '\0' && received.response_topic == NULL)
        log_warning("a command to %s is refused: %s", received.topic, reason);
    else
        refuse(gateway, make_command(gateway, address, &received, json_object()), received.topic, reason);
}

void command_intake(struct gateway *gateway, const char *topic, const struct mqtt_received *received) {
    struct address address;
    char *fault = NULL;
    const char *wrong = read_address(gateway, topic, &address);
    json_t *definitions = NULL, *definition;
    size_t i;
    if (wrong == NULL)
        wrong = wrong_with_response(received);
    if (wrong == NULL && received->length > PAYLOAD_MAX)
        wrong = "the payload has more than 262144 bytes";
    if (wrong == NULL)
        definitions = command_parse(received->payload, received->length, &fault);
    if (definitions == NULL) {
        refuse_all(gateway, &address, *received, wrong != NULL ? wrong : fault);
        free(fault);
        return;
    }
    json_array_foreach(definitions, i, definition) {
        take_command(gateway, &address, received, definition);
    }
    json_decref(definitions);
}
