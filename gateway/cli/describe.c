// trackbus describe: the dictionary, the commands and the protocols, for people and for machines.
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "codecs/codec.h"
#include "gateway/base/memory.h"
#include "gateway/cli/cli.h"
#include "schema/field.h"
#include "schema/schemas.h"

static const char help[] =
    "trackbus describe fields [WORD] [--json]\n"
    "trackbus describe commands -p PROTOCOL [--json]\n"
    "trackbus describe protocols [--json]\n"
    "\n"
    "Prints every field that a message may carry, every command of a protocol, or the protocols. With\n"
    "WORD, only the fields that have it in their name, unit or meaning.\n"
    "\n"
    "Exit codes: 0 done, 1 no field has that word, 2 wrong usage.\n";

static int print_json(json_t *json) {
    json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
    putchar('\n');
    json_decref(json);
    return 0;
}

static json_t *field_json(const struct field_info *info) {
    json_t *field = json_pack("{s:s, s:s}", "name", info->name, "type", field_type_name(info->type));
    if (*info->unit != '\0')
        json_object_set_new(field, "unit", json_string(info->unit));
    if (info->type == FIELD_NUMBER) {
        json_object_set_new(field, "minimum", json_integer(info->minimum));
        json_object_set_new(field, "maximum", json_integer(info->maximum));
    }
    json_object_set_new(field, "indexed", json_boolean(info->indexed));
    json_object_set_new(field, "description", json_string(info->description));
    return field;
}

static bool has_word(const struct field_info *info, const char *word) {
    return strcasestr(info->name, word) != NULL || strcasestr(info->unit, word) != NULL ||
           strcasestr(info->description, word) != NULL;
}

static int describe_fields_json(const char *word) {
    json_t *fields = must_have(json_array());
    for (int i = FIELD_NONE + 1; i < FIELD_COUNT; i++)
        if (has_word(&field_table[i], word))
            json_array_append_new(fields, field_json(&field_table[i]));
    return print_json(fields);
}

static void print_field(const struct field_info *info) {
    char name[64], range[64] = "";
    snprintf(name, sizeof name, "%s%s", info->name, info->indexed ? ".INDEX" : "");
    if (info->type == FIELD_NUMBER)
        snprintf(range, sizeof range, "%lld to %lld", (long long)info->minimum, (long long)info->maximum);
    printf("%-32s %-8s %-12s %-24s %s\n", name, field_type_name(info->type), info->unit, range,
           info->description);
}

static bool is_word_of_any_field(const char *word) {
    for (int i = FIELD_NONE + 1; i < FIELD_COUNT; i++)
        if (has_word(&field_table[i], word))
            return true;
    return false;
}

static int describe_fields(const char *word, bool json) {
    if (!is_word_of_any_field(word)) {
        cli_fault("describe", "no field has '%s' in its name, unit or meaning", word);
        return 1;
    }
    if (json)
        return describe_fields_json(word);
    printf("%-32s %-8s %-12s %-24s %s\n", "NAME", "TYPE", "UNIT", "RANGE", "MEANING");
    for (int i = FIELD_NONE + 1; i < FIELD_COUNT; i++)
        if (has_word(&field_table[i], word))
            print_field(&field_table[i]);
    return 0;
}

static void print_example(const char *name, json_t *properties) {
    json_t *whole = json_pack("{s:s, s:O}", "name", name, "properties", properties);
    fputs("    ", stdout);
    json_dumpf(whole, stdout, 0);
    putchar('\n');
    json_decref(whole);
}

static void print_command(const char *name, const json_t *schema) {
    const char *description = json_string_value(json_object_get(schema, "description"));
    json_t *example;
    size_t i;
    printf("%s: %s\n", name, json_string_value(json_object_get(schema, "title")));
    if (description != NULL)
        printf("    %s\n", description);
    json_array_foreach(json_object_get(schema, "examples"), i, example) print_example(name, example);
}

static int describe_commands(const struct codec *codec, bool json) {
    const json_t *catalogue = schema_of_commands(codec->name);
    const char *name;
    json_t *schema;
    if (json)
        return print_json(catalogue != NULL ? json_deep_copy(catalogue) : json_pack("{s:{}}", "$defs"));
    if (catalogue == NULL)
        printf("%s has no commands.\n", codec->name);
    json_object_foreach(json_object_get(catalogue, "$defs"), name, schema) print_command(name, schema);
    return 0;
}

static int describe_protocols_json(void) {
    json_t *protocols = must_have(json_array());
    for (size_t i = 0; codec_at(i) != NULL; i++) {
        const struct codec *codec = codec_at(i);
        json_array_append_new(protocols, json_pack("{s:s, s:i, s:s}", "name", codec->name, "id",
                                                   (int)codec->id, "title", codec->title));
    }
    return print_json(protocols);
}

static int describe_protocols(bool json) {
    if (json)
        return describe_protocols_json();
    printf("%-12s %-4s %s\n", "NAME", "ID", "DEVICES");
    for (size_t i = 0; codec_at(i) != NULL; i++)
        printf("%-12s %-4u %s\n", codec_at(i)->name, codec_at(i)->id, codec_at(i)->title);
    return 0;
}

// words: NULL-terminated, what follows the subcommand.
static int describe(const char *subcommand, char *const *words, const char *protocol, bool json) {
    const char *what = words[0] != NULL ? words[0] : "";
    const char *word = words[0] != NULL ? words[1] : NULL;
    if (word != NULL && (strcmp(what, "fields") != 0 || words[2] != NULL))
        return cli_usage_fault(subcommand, "'%s' is too much", words[2] != NULL ? words[2] : word);
    if (strcmp(what, "fields") == 0)
        return describe_fields(word != NULL ? word : "", json);
    if (strcmp(what, "protocols") == 0)
        return describe_protocols(json);
    if (strcmp(what, "commands") != 0)
        return cli_usage_fault(subcommand, "describe what? fields, commands or protocols");
    if (protocol == NULL || codec_find(protocol) == NULL)
        return cli_usage_fault(subcommand,
                               "which protocol? -p is missing or unknown; see: trackbus describe protocols");
    return describe_commands(codec_find(protocol), json);
}

int cli_describe(int argc, char **argv) {
    static const struct option longs[] = {
        {"protocol", required_argument, NULL, 'p'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    const char *protocol = NULL;
    bool json = false;
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":p:h", longs, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (option != 'p' && option != 'j')
            return cli_usage_fault(argv[0], "wrong or incomplete option '%s'", argv[optind - 1]);
        json = json || option == 'j';
        protocol = option == 'p' ? optarg : protocol;
    }
    return describe(argv[0], argv + optind, protocol, json);
}
