// Signatures of entries: what is signed, and what does not pass.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/text.h"
#include "gateway/commands/signature.h"

#define KEY "devices/42"

static const struct command_secret secret = {.bytes = "what only gateways know", .length = 23};

static json_t *entry_of(const char *rest) {
    char *text =
        text_format("{\"id\":17,\"name\":\"reboot\",\"created\":1700000000.123456,\"attempts\":0%s}", rest);
    json_t *entry = json_loads(text, 0, NULL);
    cr_assert(entry != NULL, "%s", text);
    free(text);
    return entry;
}

static json_t *signed_entry(void) {
    json_t *entry = entry_of("");
    command_signature_set(entry, KEY, &secret);
    return entry;
}

static const char *signature_of(const json_t *entry) {
    return json_string_value(json_object_get(entry, "signature"));
}

// As it was computed elsewhere: printf 'trackbus commands-queue\ndevices/42\n{…}' | openssl dgst -sha256 -hmac …
Test(command_signature, is_the_hmac_of_topic_and_canonical_json) {
    json_t *entry = signed_entry();
    cr_assert_str_eq(signature_of(entry), "149c4670b9b5e17bc4c1b31a3a7825cfbd26c7933c1a93c06ae58d1e4c36c378");
    cr_assert(command_signature_fault(entry, KEY, &secret) == NULL);
    command_signature_set(entry, KEY, &secret); // it is not signed itself
    cr_assert_str_eq(signature_of(entry), "149c4670b9b5e17bc4c1b31a3a7825cfbd26c7933c1a93c06ae58d1e4c36c378");
    json_decref(entry);
}

Test(command_signature, of_another_key_or_topic_is_wrong) {
    const struct command_secret other = {.bytes = "what only gateways knew", .length = 23};
    const struct command_secret shorter = {.bytes = secret.bytes, .length = 22};
    json_t *entry = signed_entry();
    cr_assert(command_signature_fault(entry, KEY, &other) != NULL);
    cr_assert(command_signature_fault(entry, KEY, &shorter) != NULL);
    cr_assert(command_signature_fault(entry, "devices/43", &secret) != NULL);
    cr_assert(command_signature_fault(entry, "devices/4", &secret) != NULL);
    json_decref(entry);
}

Test(command_signature, of_an_entry_that_was_changed_is_wrong) {
    static const char *const changes[] = {
        "{\"id\":18}",        "{\"name\":\"factoryreset\"}", "{\"created\":1700000000.123457}",
        "{\"attempts\":0.0}", "{\"state\":\"queued\"}",      "{\"response_topic\":\"a\"}",
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        json_t *entry = signed_entry(), *change = json_loads(changes[i], 0, NULL);
        json_object_update(entry, change);
        cr_assert(command_signature_fault(entry, KEY, &secret) != NULL, "%s", changes[i]);
        json_decref(change);
        json_decref(entry);
    }
    json_t *entry = signed_entry();
    json_object_del(entry, "attempts");
    cr_assert(command_signature_fault(entry, KEY, &secret) != NULL);
    json_decref(entry);
}

// Cut, longer, of another type, empty, with a NUL, and not there at all.
Test(command_signature, that_is_none_is_wrong) {
    json_t *entry = signed_entry();
    char *good = strdup(signature_of(entry));
    json_object_set_new(entry, "signature", json_stringn(good, 63));
    cr_assert(command_signature_fault(entry, KEY, &secret) != NULL);
    json_object_set_new(entry, "signature", json_sprintf("%s0", good));
    cr_assert(command_signature_fault(entry, KEY, &secret) != NULL);
    json_object_set_new(entry, "signature", json_string(""));
    cr_assert(command_signature_fault(entry, KEY, &secret) != NULL);
    json_object_set_new(entry, "signature", json_integer(0));
    cr_assert(command_signature_fault(entry, KEY, &secret) != NULL);
    json_object_set_new(entry, "signature", json_string(good));
    cr_assert(command_signature_fault(entry, KEY, &secret) == NULL);
    json_object_del(entry, "signature");
    cr_assert_str_eq(command_signature_fault(entry, KEY, &secret), "no gateway has signed it");
    json_t *array = json_array();
    cr_assert(command_signature_fault(array, KEY, &secret) != NULL);
    json_decref(array);
    json_decref(entry);
    free(good);
}

// What one gateway publishes, and another one reads, is what the first one has signed: numbers above all.
Test(command_signature, outlives_being_written_and_read) {
    static const char *const values[] = {
        "0.1",
        "1e300",
        "1e22",
        "-0.0",
        "1700000000.1",
        "9007199254740993.0",
        "4611686018427387905",
        "1.0",
        "5e-324",
        "123456789012345678.9",
        "\"\\u0001 \\/ \\u00e9 \\ud83d\\ude00\"",
        "[[],{}]",
        "null",
    };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char *rest = text_format(",\"meta\":{\"value\":%s}", values[i]);
        json_t *entry = entry_of(rest);
        command_signature_set(entry, KEY, &secret);
        char *text = text_of_json(entry, TEXT_TIME_DIGITS);
        json_t *read = json_loads(text, 0, NULL);
        cr_assert(command_signature_fault(read, KEY, &secret) == NULL, "%s", text);
        json_decref(read);
        json_decref(entry);
        free(text);
        free(rest);
    }
}
