// Commands to JSON and back, and what is no entry.
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/commands/command.h"
#include "gateway/commands/response_topic.h"

static json_t *parsed(const char *text) {
    json_t *json = json_loads(text, 0, NULL);
    cr_assert(json != NULL, "%s", text);
    return json;
}

#define TIMES "\"created\":1700000000.123456,\"expires\":1700086400.123456,\"max_attempts\":3"

static const struct round_trip {
    const char *key, *entry;
} round_trips[] = {
    {"devices/866425031361423", "{\"id\":1700000000123456,\"name\":\"reboot\",\"properties\":{}," TIMES
                                ",\"state\":\"queued\",\"attempts\":0,\"device_id\":866425031361423}"},
    {"devices/0",
     "{\"id\":1,\"name\":\"rconf\",\"properties\":{},\"meta\":{\"a\":[1,2.5,null,\"\\u00e4\"]},\"priority\":-"
     "5,"
     "\"timeout\":86400," TIMES ",\"state\":\"queued\",\"attempts\":2,\"answer_by\":1700000030.5,"
     "\"answer_key\":\"rconf\",\"answer_final\":false,\"instance\":\"one\",\"device_id\":0,"
     "\"ident\":\"a.b_c-D\",\"channel_id\":7}"},
    {"devices/9007199254740991",
     "{\"id\":9007199254740991,\"name\":\"otastart\",\"properties\":{\"port\":21}," TIMES
     ",\"state\":\"sent\",\"attempts\":1,\"answer_by\":1700000930.000001,\"answer_key\":\"otastart\","
     "\"answer_final\":true,\"instance\":\"trackbus\",\"device_id\":9007199254740991,"
     "\"response_topic\":\"a/b/c\",\"correlation_data\":\"00ff7f80\"}"},
    {"channels/3/van",
     "{\"id\":2,\"name\":\"custom\",\"properties\":{\"payload\":\"mode,6,60#\"}," TIMES
     ",\"state\":\"processed\",\"attempts\":1,\"answer_by\":1700000030.5,\"answer_key\":\"\","
     "\"answer_final\":false,\"ident\":\"van\",\"channel_id\":3,\"correlation_data\":\"\","
     "\"result\":{\"executed\":false,\"response\":null,\"reason\":\"x\"}}"},
    {"channels/3/van", "{\"id\":2,\"name\":\"custom\",\"properties\":{}," TIMES
                       ",\"state\":\"expired\",\"attempts\":0,\"ident\":\"van\",\"channel_id\":3,"
                       "\"result\":{\"executed\":false,\"response\":null}}"},
};

Test(command, to_json_and_back) {
    for (size_t i = 0; i < sizeof round_trips / sizeof round_trips[0]; i++) {
        json_t *entry = parsed(round_trips[i].entry);
        char *reason;
        struct command *command = command_from_json(round_trips[i].key, entry, &reason);
        cr_assert(command != NULL, "%s: %s", round_trips[i].entry, reason);
        json_t *again = command_to_json(command);
        char *text = json_dumps(again, JSON_SORT_KEYS | JSON_COMPACT | JSON_REAL_PRECISION(16));
        cr_assert(json_equal(entry, again), "%s became %s", round_trips[i].entry, text);
        // And as the text that the broker retains.
        json_t *read = parsed(text);
        struct command *second = command_from_json(round_trips[i].key, read, &reason);
        cr_assert(second != NULL && second->created == command->created &&
                      second->answer_by == command->answer_by,
                  "%s", text);
        command_free(command), command_free(second);
        json_decref(entry), json_decref(again), json_decref(read);
        free(text);
    }
}

Test(command, from_json_reads_all) {
    json_t *entry = parsed(round_trips[2].entry);
    char *reason;
    struct command *command = command_from_json(round_trips[2].key, entry, &reason);
    cr_assert(command->id == 9007199254740991 && command->device_id == 9007199254740991);
    cr_assert(command->created == 1700000000123456 && command->expires == 1700086400123456);
    cr_assert(command->answer_by == 1700000930000001 && command->state == COMMAND_SENT &&
              command->attempts == 1);
    cr_assert(command->expectation.final_after_progress);
    cr_assert_str_eq(command->expectation.key, "otastart");
    cr_assert_str_eq(command->response_topic, "a/b/c");
    cr_assert(command->correlation_length == 4 && memcmp(command->correlation, "\0\xff\x7f\x80", 4) == 0);
    cr_assert_str_eq(command_name(command), "otastart");
    cr_assert(!command_has_ended(command) && command->channel_id == 0 && command->ident[0] == '\0');
    command_free(command);
    json_decref(entry);
}

static const struct bad_entry {
    const char *key, *change, *value, *reason;
} bad_entries[] = {
    {"devices/5", "device_id", "6", "another device"},
    {"devices/5", "device_id", NULL, "another device"},
    {"channels/1/van", "device_id", "5", "another device"},
    {"devices/5", "id", "0", "entry.id"},
    {"devices/5", "id", "9007199254740992", "entry.id"},
    {"devices/5", "id", "\"7\"", "entry.id"},
    {"devices/5", "id", NULL, "id"},
    {"devices/5", "name", "\"\"", "entry.name"},
    {"devices/5", "properties", "[]", "entry.properties"},
    {"devices/5", "state", "\"lost\"", "entry.state"},
    {"devices/5", "created", "-1", "entry.created"},
    {"devices/5", "expires", "1e300", "entry.expires"},
    {"devices/5", "max_attempts", "0", "entry.max_attempts"},
    {"devices/5", "attempts", "1.5", "entry.attempts"},
    {"devices/5", "ident", "\"a/b\"", "entry.ident"},
    {"devices/5", "ident", "\"123456789012345678901234567890123\"", "entry.ident"},
    {"devices/5", "answer_key", "\"12345678901234567890123456789012\"", "entry.answer_key"},
    {"devices/5", "response_topic", "\"a/+\"", "entry.response_topic"},
    {"devices/5", "response_topic", "\"\"", "entry.response_topic"},
    {"devices/5", "correlation_data", "\"abc\"", "entry.correlation_data"},
    {"devices/5", "correlation_data", "\"zz\"", "entry.correlation_data"},
    {"devices/5", "surplus", "1", "surplus"},
};

Test(command, from_json_refuses_what_is_no_entry) {
    for (size_t i = 0; i < sizeof bad_entries / sizeof bad_entries[0]; i++) {
        const struct bad_entry *it = &bad_entries[i];
        json_t *entry = parsed("{\"id\":7,\"name\":\"reboot\",\"properties\":{}," TIMES
                               ",\"state\":\"queued\",\"device_id\":5,\"ident\":\"van\",\"channel_id\":1}");
        char *reason;
        if (it->value == NULL)
            json_object_del(entry, it->change);
        else
            json_object_set_new(entry, it->change, json_loads(it->value, JSON_DECODE_ANY, NULL));
        struct command *command = command_from_json(it->key, entry, &reason);
        cr_assert(command == NULL, "%s %s was taken", it->change, it->value != NULL ? it->value : "missing");
        cr_assert(strstr(reason, it->reason) != NULL, "'%s' does not say '%s'", reason, it->reason);
        free(reason);
        json_decref(entry);
    }
}

// --- response topics ---

#define TEN(text) text text text text text text text text text text

static const struct response {
    const char *topic, *fault; // a part of it, or NULL
} responses[] = {
    {"answers/17", NULL},
    {"/answers", NULL},
    {"answers//x", NULL},
    {"answers/\xc3\xa4 \xf0\x9f\x9a\x90", NULL},
    {"tbx/answers", NULL}, // begins as the prefix does, and is not below it
    {"not/tb/x", NULL},
    {TEN(TEN("/")) "", "101 levels"},
    {TEN(TEN("a/")) "", "101 levels"},
    {"a" TEN("/////////") "/////////", NULL},    // 100 levels
    {TEN(TEN(TEN("x"))) TEN("xx") "xxxx", NULL}, // 1,024 bytes
    {TEN(TEN(TEN("x"))) TEN("xx") "xxxxx", "1025 bytes"},
    {"", "0 bytes"},
    {"a/+", "wildcard"},
    {"#", "wildcard"},
    {"$SYS/x", "begins with $"},
    {"$share/a/b", "begins with $"},
    {"tb", "belongs to the gateway"},
    {"tb/", "belongs to the gateway"},
    {"tb/state/gw/devices/1/connected", "belongs to the gateway"},
    {"tb/answers", "belongs to the gateway"},
    {"ha/status", "belongs to the gateway"},
    {"a\nb", "UTF-8"},
    {"a\x7f", "UTF-8"},
    {"a\xc2\x85", "UTF-8"},     // U+0085
    {"a\xed\xa0\x80", "UTF-8"}, // a surrogate
    {"a\xc0\x80", "UTF-8"},     // a long form of NUL
    {"\xff", "UTF-8"},
};

Test(command, response_topics_are_checked) {
    struct config config = {.mqtt.topic_prefix = "tb", .home_assistant = {.enabled = true, .prefix = "ha"}};
    for (size_t i = 0; i < sizeof responses / sizeof responses[0]; i++) {
        const struct response *it = &responses[i];
        char *fault = response_topic_fault(&config, it->topic);
        cr_assert((fault != NULL) == (it->fault != NULL), "%s: %s", it->topic, fault);
        cr_assert(fault == NULL || strstr(fault, it->fault) != NULL, "%s: %s", it->topic, fault);
        free(fault);
    }
    config.home_assistant.enabled = false;
    cr_assert(response_topic_fault(&config, "ha/status") == NULL);
}
