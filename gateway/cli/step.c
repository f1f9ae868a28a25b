// Printing the steps of a command; see step.h.
#include "gateway/cli/step.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clean.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"

#define TEXT_MAX 4096

static const char *text_at(const json_t *entry, const char *key, char *out, size_t capacity) {
    const char *text = json_string_value(json_object_get(entry, key));
    return clean_text(text != NULL ? text : "", text != NULL ? strlen(text) : 0, out, capacity);
}

static long long number_at(const json_t *entry, const char *key) {
    return json_integer_value(json_object_get(entry, key));
}

// The id is what cancels it.
static void print_queued(const json_t *entry) {
    bool unknown = json_is_false(json_object_get(entry, "known"));
    printf(", id %lld%s", number_at(entry, "id"),
           unknown ? ", for a device that is neither in the registry nor was ever heard" : "");
}

static void print_sent(const json_t *entry) {
    char source[80], transport[16];
    printf(", attempt %lld, %s %s", number_at(entry, "attempts"),
           text_at(entry, "transport", transport, sizeof transport),
           text_at(entry, "source", source, sizeof source));
}

static void print_end(const json_t *entry) {
    char reason[512];
    if (json_is_true(json_object_get(entry, "executed")))
        printf(", executed");
    else
        printf(", not executed: %s", text_at(entry, "reason", reason, sizeof reason));
}

void step_print(const char *step, const json_t *entry) {
    char name[80];
    text_at(entry, "name", name, sizeof name);
    printf("%-10s %s", step, *name != '\0' ? name : "a command without a name");
    if (strcmp(step, "queued") == 0)
        print_queued(entry);
    else if (strcmp(step, "sent") == 0)
        print_sent(entry);
    else
        print_end(entry);
    putchar('\n');
}

void step_print_response(const json_t *response) {
    static char clean[TEXT_MAX];
    if (response == NULL || json_is_null(response))
        return;
    char *text = json_is_string(response) ? must_have(strdup(json_string_value(response)))
                                          : text_of_json(response, TEXT_VALUE_DIGITS);
    puts(clean_text(text, strlen(text), clean, sizeof clean));
    free(text);
}
