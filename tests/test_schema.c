// The schema files, the dictionary, and the checks that are made by them.
#include <criterion/criterion.h>
#include <ctype.h>
#include <glob.h>
#include <jansson.h>
#include <pthread.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/commands/parse.h"
#include "schema/field.h"
#include "schema/json_schema.h"
#include "schema/schemas.h"
#include "schema/utf8.h"
#include "tests/vector.h"

static json_t *json_of(const char *text) {
    json_error_t error;
    json_t *json = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
    cr_assert(json != NULL, "%s: %s", text, error.text);
    return json;
}

// --- the files ---

Test(schema, every_file_is_json_with_known_keywords) {
    size_t count = 0;
    for (; schema_texts[count].name != NULL; count++) {
        json_t *schema = json_of(schema_texts[count].text);
        const char *unknown = json_schema_unknown_keyword(schema);
        cr_assert(unknown == NULL, "%s: %s", schema_texts[count].name, unknown);
        cr_assert(json_is_string(json_object_get(schema, "title")), "%s", schema_texts[count].name);
        json_decref(schema);
    }
    cr_assert(count >= 4);
}

Test(schema, unknown_keywords_are_found_at_any_depth) {
    static const char *const schemas[] = {
        "{\"oops\":1}",
        "{\"properties\":{\"a\":{\"oops\":1}}}",
        "{\"patternProperties\":{\"a\":{\"oops\":1}}}",
        "{\"additionalProperties\":{\"oops\":1}}",
        "{\"items\":{\"items\":{\"oops\":1}}}",
        "{\"allOf\":[{},{\"oops\":1}]}",
        "{\"anyOf\":[{},{\"oops\":1}]}",
        "{\"if\":{\"oops\":1}}",
        "{\"then\":{\"oops\":1}}",
        "{\"else\":{\"oops\":1}}",
        "{\"$defs\":{\"a\":{\"oops\":1}}}",
    };
    for (size_t i = 0; i < sizeof schemas / sizeof schemas[0]; i++) {
        json_t *schema = json_of(schemas[i]);
        const char *unknown = json_schema_unknown_keyword(schema);
        cr_assert(unknown != NULL && strcmp(unknown, "oops") == 0, "%s", schemas[i]);
        json_decref(schema);
    }
    json_t *fine =
        json_of("{\"properties\":{\"oops\":{\"default\":{\"oops\":1},\"examples\":[{\"oops\":1}]}}}");
    cr_assert_null(json_schema_unknown_keyword(fine), "names of properties and values are no keywords");
    json_decref(fine);
}

Test(schema, every_file_of_the_folder_is_in_the_program) {
    glob_t found;
    cr_assert(glob(TEST_SCHEMA "/*.schema.json", 0, NULL, &found) == 0);
    cr_assert(glob(TEST_SCHEMA "/commands/*.json", GLOB_APPEND, NULL, &found) == 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        const char *name = found.gl_pathv[i] + strlen(TEST_SCHEMA) + 1;
        json_t *file = json_load_file(found.gl_pathv[i], JSON_REJECT_DUPLICATES, NULL);
        cr_assert(file != NULL && schema_find(name) != NULL, "%s", name);
        cr_assert(json_equal(file, schema_find(name)), "%s", name);
        json_decref(file);
    }
    globfree(&found);
    schema_free_all();
}

Test(schema, the_committed_message_schema_is_the_generated_one) {
    json_t *file = json_load_file(TEST_SCHEMA "/message.schema.json", JSON_REJECT_DUPLICATES, NULL);
    cr_assert(file != NULL);
    cr_assert(json_equal(file, schema_find("message.schema.json")),
              "run: python3 schema/generate.py schema schema/fields.json schema/message.schema.json");
    json_decref(file);
    schema_free_all();
}

Test(schema, what_there_is_none_of) {
    cr_assert_null(schema_find("no.schema.json"));
    cr_assert_null(schema_of_commands("none"));
}

// --- the dictionary ---

Test(dictionary, rows_are_whole_and_in_order) {
    cr_assert_null(field_table[FIELD_NONE].name);
    for (unsigned i = FIELD_NONE + 1; i < FIELD_COUNT; i++) {
        const struct field_info *info = &field_table[i];
        cr_assert(i == 1 || strcmp(field_table[i - 1].name, info->name) < 0, "%s", info->name);
        cr_assert(info->description[0] != '\0' && field_type_name(info->type)[0] != '\0', "%s", info->name);
        cr_assert(info->type != FIELD_NUMBER || info->minimum < info->maximum, "%s", info->name);
        for (const char *c = info->name; *c != '\0'; c++)
            cr_assert(islower((unsigned char)*c) || strchr(".[]", *c) != NULL, "%s", info->name);
        const char *inner = strstr(info->name, "[].");
        cr_assert_str_eq(info->key, inner != NULL ? inner + 3 : info->name);
        cr_assert_eq(info->list != FIELD_NONE, inner != NULL, "%s", info->name);
        cr_assert(inner == NULL || field_table[info->list].type == FIELD_LIST, "%s", info->name);
    }
}

static bool is_field(const char *name, size_t length) {
    for (unsigned i = FIELD_NONE + 1; i < FIELD_COUNT; i++)
        if (strlen(field_table[i].name) == length && memcmp(field_table[i].name, name, length) == 0)
            return true;
    return false;
}

static void print_fault(void *context, const char *path, const char *problem) {
    fprintf(stderr, "%s: %s %s\n", (const char *)context, path, problem);
}

// What vectors expect is held against the dictionary, so that no expectation can bring in a name of its own.
Test(dictionary, holds_every_name_that_vectors_expect) {
    size_t count, messages = 0;
    const struct vector *vectors = vectors_all(&count);
    json_t *schema = json_deep_copy(schema_find("message.schema.json"));
    json_object_del(schema, "required"); // the gateway adds those
    for (size_t i = 0; i < count; i++) {
        for (size_t n = 0; n < vectors[i].expected_count; n++) {
            const char *line = vectors[i].expected[n];
            if (strncmp(line, "removed ", 8) == 0)
                cr_assert(is_field(line + 8, strcspn(line + 8, " ")), "%s: %s", vectors[i].path, line);
            if (strncmp(line, "message ", 8) != 0)
                continue;
            json_t *message = json_of(line + 8);
            cr_assert_eq(json_schema_check(schema, schema, message, "message", print_fault, vectors[i].path),
                         0);
            json_decref(message);
            messages++;
        }
    }
    cr_assert(messages > 100);
    json_decref(schema);
    schema_free_all();
}

// --- the commands of every protocol ---

static const struct codec *codec_number(size_t index) {
    const struct codec *codec = codec_at(index);
    return codec == NULL && (index == 0 || codec_at(index - 1) != NULL) ? vector_codec("template") : codec;
}

static void check_example(const struct codec *codec, const char *name, json_t *example) {
    uint8_t bytes[CODEC_COMMAND_MAX];
    struct codec_writer writer = {.bytes = bytes, .capacity = sizeof bytes};
    struct codec_expectation expectation;
    void *session = calloc(1, codec->session_size);
    json_t *command = json_pack("{s:s, s:o}", "name", name, "properties", json_deep_copy(example));
    char *fault = command_check(command, codec);
    cr_assert(fault == NULL, "%s %s: %s", codec->name, name, fault);
    fault = command_encode(command, codec, session, &(struct codec_setting){.now = 1}, &writer, &expectation);
    cr_assert(fault == NULL, "%s %s: %s", codec->name, name, fault);
    cr_assert(writer.length > 0 && writer.length <= sizeof bytes, "%s %s", codec->name, name);
    json_decref(command);
    free(session);
}

// A button sends the command without properties.
static void check_button(const struct codec *codec, const char *name, const json_t *button) {
    static const char *const keys[] = {"object_id", "name", "icon", "device_class", "category"};
    json_t *command = json_pack("{s:s}", "name", name), *value;
    const char *key;
    char *fault = command_check(command, codec);
    cr_assert(fault == NULL, "%s %s has a button, but: %s", codec->name, name, fault);
    cr_assert(json_object_get(button, "object_id") != NULL && json_object_get(button, "name") != NULL);
    json_object_foreach((json_t *)button, key, value) {
        size_t i = 0;
        while (i < sizeof keys / sizeof keys[0] && strcmp(keys[i], key) != 0)
            i++;
        cr_assert(i < sizeof keys / sizeof keys[0] && json_string_length(value) > 0, "%s %s: %s", codec->name,
                  name, key);
    }
    const char *id = json_string_value(json_object_get(button, "object_id"));
    cr_assert(strlen(id) < 64 && id[strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789_")] == '\0', "%s %s: %s",
              codec->name, name, id);
    json_decref(command);
}

Test(commands, buttons_need_no_properties) {
    const struct codec *codec;
    size_t buttons = 0;
    for (size_t i = 0; (codec = codec_number(i)) != NULL; i++) {
        const char *name;
        json_t *schema;
        json_object_foreach(json_object_get(schema_of_commands(codec->name), "$defs"), name, schema) {
            const json_t *button = json_object_get(schema, "x-button");
            if (button == NULL)
                continue;
            check_button(codec, name, button);
            buttons++;
        }
    }
    cr_assert(buttons >= 2);
    schema_free_all();
}

static size_t check_select(const char *name, const json_t *schema, const json_t *select) {
    const char *property = json_string_value(json_object_get(select, "property"));
    const json_t *values = json_object_get(json_object_get(schema, "properties"), property);
    const json_t *required = json_object_get(schema, "required");
    cr_assert(json_array_size(json_object_get(values, "enum")) > 1, "%s: %s has no list", name, property);
    cr_assert(json_array_size(required) == 1 &&
                  strcmp(json_string_value(json_array_get(required, 0)), property) == 0,
              "%s needs more than %s", name, property);
    return 1;
}

static size_t check_text(const char *name, const json_t *text) {
    cr_assert(strstr(json_string_value(json_object_get(text, "template")), "{{ value }}") != NULL, "%s",
              name);
    cr_assert(*json_string_value(json_object_get(text, "pattern")) == '^', "%s", name);
    return 1;
}

// What Home Assistant lets people choose or type is a whole command.
Test(commands, lists_and_texts_say_all_that_is_needed) {
    const struct codec *codec;
    size_t found = 0;
    for (size_t i = 0; (codec = codec_number(i)) != NULL; i++) {
        const char *name;
        json_t *schema;
        json_object_foreach(json_object_get(schema_of_commands(codec->name), "$defs"), name, schema) {
            const json_t *select = json_object_get(schema, "x-select"),
                         *text = json_object_get(schema, "x-text");
            found += select != NULL ? check_select(name, schema, select) : 0;
            found += text != NULL ? check_text(name, text) : 0;
        }
    }
    cr_assert(found >= 2);
    schema_free_all();
}

// Home Assistant has an entity for each, the view of the fleet has words for it.
Test(codecs, alarms_are_alarms_in_the_dictionary) {
    const struct codec *codec;
    size_t alarms = 0;
    for (size_t i = 0; (codec = codec_number(i)) != NULL; i++)
        for (const enum field *alarm = codec->alarms; alarm != NULL && *alarm != FIELD_NONE; alarm++) {
            const struct field_info *info = &field_table[*alarm];
            cr_assert(info->alarm, "%s raises %s, which fields.json does not call an alarm", codec->name,
                      info->name);
            alarms++;
        }
    cr_assert(alarms > 0);
}

Test(commands, every_schema_has_a_title_and_examples_that_encode) {
    const struct codec *codec;
    size_t commands = 0;
    for (size_t i = 0; (codec = codec_number(i)) != NULL; i++) {
        const char *name;
        json_t *schema, *example;
        const json_t *catalogue = schema_of_commands(codec->name);
        json_object_foreach(json_object_get(catalogue, "$defs"), name, schema) {
            size_t n;
            json_t *examples = json_object_get(schema, "examples");
            cr_assert(json_is_string(json_object_get(schema, "title")), "%s %s", codec->name, name);
            cr_assert(json_array_size(examples) > 0, "%s %s has no example", codec->name, name);
            json_array_foreach(examples, n, example) check_example(codec, name, example);
            commands++;
        }
    }
    cr_assert(commands >= 13);
    schema_free_all();
}

Test(commands, examples_of_the_envelope_hold) {
    const json_t *envelope = schema_find("command.schema.json");
    size_t i;
    json_t *example, *examples = json_object_get(envelope, "examples");
    cr_assert(json_array_size(examples) > 0);
    json_array_foreach(examples, i, example) {
        json_t *command = json_deep_copy(example);
        char *fault = command_check(command, codec_find("mictrack"));
        cr_assert(fault == NULL, "%s", fault);
        json_decref(command);
    }
    schema_free_all();
}

// --- checks: what they say ---

static void collect(void *context, const char *path, const char *problem) {
    char *text = context;
    sprintf(text + strlen(text), "%s%s %s", *text != '\0' ? "; " : "", path, problem);
}

static void check_says(const char *schema_text, const char *value_text, const char *expected) {
    static char faults[4096];
    json_t *schema = json_of(schema_text), *value = json_of(value_text);
    *faults = '\0';
    unsigned count = json_schema_check(schema, schema, value, "$", collect, faults);
    cr_assert_str_eq(faults, expected, "%s of %s:\n expected %s\n came     %s", value_text, schema_text,
                     expected, faults);
    cr_assert_eq(count > 0, *expected != '\0');
    cr_assert_eq(json_schema_check(schema, schema, value, "$", NULL, NULL), count, "counting alone");
    json_decref(value);
    json_decref(schema);
}

Test(json_schema, types) {
    check_says("{\"type\":\"string\"}", "7", "$ is 7, expected string");
    check_says("{\"type\":[\"string\",\"null\"]}", "7", "$ is 7, expected string or null");
    check_says("{\"type\":[\"string\",\"null\",\"array\"]}", "{}", "$ is {}, expected string, null or array");
    check_says("{\"type\":\"integer\"}", "1.5", "$ is 1.5, expected integer");
    check_says("{\"type\":\"integer\"}", "2.0", "");
    check_says("{\"type\":\"number\"}", "true", "$ is true, expected number");
    check_says("{\"type\":\"boolean\"}", "0", "$ is 0, expected true or false");
    check_says("{\"type\":\"object\"}", "[]", "$ is [], expected object");
    check_says("{\"type\":\"integer\",\"minimum\":1,\"maximum\":2}", "\"x\"", "$ is \"x\", expected integer");
}

Test(json_schema, values) {
    check_says("{\"enum\":[1,\"a\",null]}", "2", "$ is 2, expected 1, \"a\" or null");
    check_says("{\"enum\":[1,\"a\",null]}", "\"a\"", "");
    check_says("{\"const\":\"x\"}", "\"y\"", "$ is \"y\", expected \"x\"");
    check_says("{\"minimum\":1,\"maximum\":5}", "0", "$ is 0, expected 1 to 5");
    check_says("{\"minimum\":1,\"maximum\":5}", "6", "$ is 6, expected 1 to 5");
    check_says("{\"minimum\":1,\"maximum\":5}", "5", "");
    check_says("{\"minimum\":1}", "0.5", "$ is 0.5, expected at least 1");
    check_says("{\"maximum\":5}", "6", "$ is 6, expected at most 5");
    check_says("{\"maximum\":5}", "\"6\"", "");
    check_says("{\"minLength\":2}", "\"\xc3\xa9\"", "$ has 1 characters, expected at least 2");
    check_says("{\"maxLength\":2}", "\"\xc3\xa9\xc3\xa9\xc3\xa9\"", "$ has 3 characters, expected at most 2");
    check_says("{\"maxLength\":2}", "\"\xc3\xa9\xc3\xa9\"", "");
    check_says("{\"pattern\":\"^a+$\"}", "\"b\"", "$ is \"b\", expected text that matches ^a+$");
    check_says("{\"pattern\":\"^a+$\",\"description\":\"some a\"}", "\"b\"", "$ is \"b\", expected: some a");
    check_says("{\"pattern\":\"^a+$\"}", "\"aa\"", "");
}

static void *check_a_pattern(void *unused) {
    check_says("{\"pattern\":\"^a+$\"}", "\"aa\"", "");
    return unused;
}

// What is kept of patterns goes with the thread: the registry is read, and a reload checked, on threads that end.
Test(json_schema, patterns_end_with_their_thread) {
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, check_a_pattern, NULL), 0);
    cr_assert_eq(pthread_join(thread, NULL), 0);
#ifdef __SANITIZE_ADDRESS__
    cr_assert_eq(__lsan_do_recoverable_leak_check(), 0, "a compiled pattern stays");
#endif
}

Test(json_schema, arrays_and_objects) {
    check_says("{\"items\":{\"type\":\"string\"}}", "[\"a\",1,2]",
               "$[1] is 1, expected string; $[2] is 2, expected string");
    check_says("{\"minItems\":1}", "[]", "$ has 0 entries, expected at least 1");
    check_says("{\"maxItems\":1}", "[1,2]", "$ has 2 entries, expected at most 1");
    check_says("{\"minProperties\":1}", "{}", "$ has 0 entries, expected at least 1");
    check_says("{\"minProperties\":1}", "[]", "");
    check_says("{\"required\":[\"a\",\"b\"]}", "{\"a\":1}", "$ has no \"b\", which is required");
    check_says("{\"properties\":{\"a\":{\"properties\":{\"b\":{\"type\":\"null\"}}}}}", "{\"a\":{\"b\":1}}",
               "$.a.b is 1, expected null");
    check_says("{\"properties\":{\"a\":{},\"b\":{}},\"additionalProperties\":false}", "{\"c\":1}",
               "$.c is not known here, expected a or b");
    check_says("{\"additionalProperties\":false}", "{\"c\":1}",
               "$.c is not known here, expected no properties at all");
    check_says("{\"properties\":{\"a\":{}},\"additionalProperties\":{\"type\":\"null\"}}",
               "{\"a\":1,\"c\":1}", "$.c is 1, expected null");
    check_says(
        "{\"patternProperties\":{\"^x\\\\.[0-9]+$\":{\"type\":\"null\"}},\"additionalProperties\":false}",
        "{\"x.1\":2,\"x.a\":null}",
        "$.x.1 is 2, expected null; $.x.a is not known here, expected no properties at all");
}

Test(json_schema, combinations) {
    static const char any[] = "{\"anyOf\":[{\"type\":\"null\",\"description\":\"nothing\"},{\"const\":1}]}";
    static const char branch[] =
        "{\"if\":{\"const\":1},\"then\":{\"type\":\"string\"},\"else\":{\"type\":\"null\"}}";
    check_says("{\"allOf\":[{\"minimum\":2},{\"maximum\":0}]}", "1",
               "$ is 1, expected at least 2; $ is 1, expected at most 0");
    check_says(any, "2", "$ is 2, expected nothing or another form");
    check_says(any, "1", "");
    check_says(branch, "1", "$ is 1, expected string");
    check_says(branch, "2", "$ is 2, expected null");
    check_says(branch, "null", "");
    check_says("{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"const\":1}}}", "2", "$ is 2, expected 1");
    check_says("{\"$ref\":\"#/$defs/b\"}", "2",
               "$ cannot be checked: the schema refers to #/$defs/b, which does not exist");
}

Test(json_schema, brief_texts_are_bounded) {
    for (size_t length = 0; length < 200; length++) {
        char text[401] = "";
        for (size_t i = 0; i < length; i++)
            strcat(text, i % 3 == 0 ? "\xc3\xa9" : "x");
        json_t *value = json_string(text);
        char *brief = json_schema_brief(value);
        cr_assert(strlen(brief) <= 80 && utf8_valid(brief, strlen(brief)), "%zu: %s", length, brief);
        bool whole = brief[strlen(brief) - 1] == '"';
        cr_assert(whole ? strlen(brief) == strlen(text) + 2 : strlen(text) + 2 > 79, "%zu: %s", length,
                  brief);
        free(brief);
        json_decref(value);
    }
}

static void check_filled(const char *schema_text, const char *value_text, const char *expected_text) {
    json_t *schema = json_of(schema_text), *value = json_of(value_text), *expected = json_of(expected_text);
    json_schema_fill_defaults(schema, value);
    char *came = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    cr_assert(json_equal(value, expected), "expected %s, came %s", expected_text, came);
    free(came);
    json_decref(expected);
    json_decref(value);
    json_decref(schema);
}

Test(json_schema, defaults) {
    static const char deep[] =
        "{\"properties\":{\"a\":{\"default\":1},\"b\":{\"properties\":{\"c\":{\"default\":null}}},"
        "\"d\":{\"properties\":{\"e\":{}}}}}";
    check_filled(deep, "{}", "{\"a\":1,\"b\":{\"c\":null}}");
    check_filled(deep, "{\"a\":2,\"b\":{\"c\":3},\"d\":{}}", "{\"a\":2,\"b\":{\"c\":3},\"d\":{}}");
    check_filled(deep, "{\"a\":null,\"b\":4}", "{\"a\":null,\"b\":4}");
    check_filled("{\"items\":{\"properties\":{\"a\":{\"default\":[1]}}}}", "[{},{\"a\":2},3]",
                 "[{\"a\":[1]},{\"a\":2},3]");
    check_filled("{\"default\":1}", "\"x\"", "\"x\"");
}

Test(json_schema, a_filled_default_is_a_copy) {
    json_t *schema = json_of("{\"properties\":{\"a\":{\"default\":[]}}}"), *value = json_object();
    json_schema_fill_defaults(schema, value);
    json_array_append_new(json_object_get(value, "a"), json_integer(1));
    json_t *untouched = json_of("{\"properties\":{\"a\":{\"default\":[]}}}");
    cr_assert(json_equal(schema, untouched));
    json_decref(untouched);
    json_decref(value);
    json_decref(schema);
}
