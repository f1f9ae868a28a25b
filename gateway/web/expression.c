// Conditions; see expression.h. It is evaluated while it is read: each part, whether it still counts or not, so that a
// fault shows whatever the item is.
#include "gateway/web/expression.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"

#define DEPTH_MAX 8 // parentheses and ! in each other
#define NAME_MAX_ 128
#define VALUE_MAX 256

// A value that was asked for.
struct known {
    const char *name; // in the text of the expression
    size_t length;
    json_t *value; // or NULL
};

struct reading {
    const char *next, *end;
    bool list;
    unsigned depth, comparisons;
    const char *fault; // the first one, where next stands
    expression_value *value;
    void *context;
    struct known known[EXPRESSION_COMPARISONS];
    size_t known_count;
};

enum comparison { EXISTS, LIKE, EQUAL, UNEQUAL, LESS, GREATER, AT_MOST, AT_LEAST };

bool expression_is_like(const char *pattern, size_t length, const char *text) {
    const char *end = pattern + length, *star = NULL, *from = NULL;
    while (*text != '\0') {
        if (pattern < end && *pattern == '*') {
            star = ++pattern;
            from = text;
        } else if (pattern < end && (*pattern == '?' || *pattern == *text)) {
            pattern++;
            text++;
        } else if (star != NULL) { // what the last * stands for is longer
            pattern = star;
            text = ++from;
        } else {
            return false;
        }
    }
    while (pattern < end && *pattern == '*')
        pattern++;
    return pattern == end;
}

json_t *expression_member(void *object, const char *name) {
    char part[NAME_MAX_];
    json_t *whole = json_object_get(object, name);
    const char *dot = strchr(name, '.');
    if (whole != NULL || dot == NULL || dot - name >= NAME_MAX_)
        return json_incref(whole);
    snprintf(part, sizeof part, "%.*s", (int)(dot - name), name);
    return json_incref(json_object_get(json_object_get(object, part), dot + 1));
}

// --- reading ---

static void skip_spaces(struct reading *reading) {
    while (reading->next < reading->end && *reading->next == ' ')
        reading->next++;
}

static bool take(struct reading *reading, const char *word) {
    size_t length = strlen(word);
    skip_spaces(reading);
    if ((size_t)(reading->end - reading->next) < length || memcmp(reading->next, word, length) != 0)
        return false;
    reading->next += length;
    return true;
}

static bool fail(struct reading *reading, const char *fault) {
    if (reading->fault == NULL)
        reading->fault = fault;
    return false;
}

static bool is_of_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("._-#", c) != NULL);
}

// As a text; it is known to fit, and to have no NUL.
static void copy(char *out, const char *from, size_t length) {
    memcpy(out, from, length);
    out[length] = '\0';
}

static bool read_name(struct reading *reading, char name[NAME_MAX_]) {
    size_t length = 0;
    take(reading, "$");
    while (reading->next + length < reading->end && is_of_name(reading->next[length]))
        length++;
    if (length == 0 || length >= NAME_MAX_)
        return fail(reading, "a name is expected");
    copy(name, reading->next, length);
    reading->next += length;
    return true;
}

static enum comparison read_operator(struct reading *reading) {
    static const struct {
        const char *text;
        enum comparison how;
    } operators[] = {{"==", EQUAL}, {"!=", UNEQUAL}, {"<=", AT_MOST}, {">=", AT_LEAST},
                     {"=", LIKE},   {"~", LIKE},     {"<", LESS},     {">", GREATER}};
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++)
        if (take(reading, operators[i].text))
            return operators[i].how;
    return EXISTS;
}

static bool read_quoted(struct reading *reading, char value[VALUE_MAX]) {
    char mark = *reading->next++;
    const char *close = memchr(reading->next, mark, (size_t)(reading->end - reading->next));
    if (close == NULL || close - reading->next >= VALUE_MAX)
        return fail(reading, "a quotation mark has no other");
    copy(value, reading->next, (size_t)(close - reading->next));
    reading->next = close + 1;
    return true;
}

static bool read_value(struct reading *reading, char value[VALUE_MAX]) {
    const char *ends = reading->list ? "," : " )&|,";
    size_t length = 0;
    skip_spaces(reading);
    if (reading->next < reading->end && (*reading->next == '"' || *reading->next == '\''))
        return read_quoted(reading, value);
    while (reading->next + length < reading->end && strchr(ends, reading->next[length]) == NULL)
        length++;
    if (length == 0 || length >= VALUE_MAX)
        return fail(reading, "a value of 1 to 255 bytes is expected");
    copy(value, reading->next, length);
    reading->next += length;
    return true;
}

// --- comparing ---

static bool holds_order(enum comparison how, int order) {
    switch (how) {
    case UNEQUAL:
        return order != 0;
    case LESS:
        return order < 0;
    case GREATER:
        return order > 0;
    case AT_MOST:
        return order <= 0;
    case AT_LEAST:
        return order >= 0;
    default:
        return order == 0;
    }
}

static bool compare_number(const json_t *value, enum comparison how, const char *text) {
    char *end, digits[32];
    double number = json_number_value(value), wanted = strtod(text, &end);
    if (*end == '\0' && *text != '\0')
        return holds_order(how, (number > wanted) - (number < wanted));
    snprintf(digits, sizeof digits, "%.15g", number);
    return how == LIKE && expression_is_like(text, strlen(text), digits);
}

static bool compare(const json_t *value, enum comparison how, const char *text) {
    if (json_is_number(value))
        return compare_number(value, how, text);
    const char *own =
        json_is_boolean(value) ? (json_is_true(value) ? "true" : "false") : json_string_value(value);
    if (own == NULL) // an object, a list, or nothing
        return false;
    return how == LIKE ? expression_is_like(text, strlen(text), own) : holds_order(how, strcmp(own, text));
}

// The value of the name that stands at start in the text; it stays the reading's.
static const json_t *value_of(struct reading *reading, const char *name, const char *start) {
    size_t length = strlen(name);
    for (size_t i = 0; i < reading->known_count; i++)
        if (reading->known[i].length == length && memcmp(reading->known[i].name, name, length) == 0)
            return reading->known[i].value;
    struct known *known = &reading->known[reading->known_count++]; // of each comparison one at most
    *known = (struct known){start, length, reading->value(reading->context, name)};
    return known->value;
}

static bool read_comparison(struct reading *reading) {
    char name[NAME_MAX_], text[VALUE_MAX];
    if (reading->comparisons++ == EXPRESSION_COMPARISONS)
        return fail(reading, "there are more than 20 comparisons");
    if (!read_name(reading, name))
        return false;
    const char *start = reading->next - strlen(name);
    enum comparison how = read_operator(reading);
    if (how != EXISTS && !read_value(reading, text))
        return false;
    const json_t *value = value_of(reading, name, start);
    return how == EXISTS ? value != NULL && !json_is_false(value) && !json_is_null(value)
                         : compare(value, how, text);
}

// --- what stands between ---

static bool read_either(struct reading *reading);

static bool read_one(struct reading *reading) {
    bool holds;
    if (reading->depth >= DEPTH_MAX)
        return fail(reading, "there are too many ( and ! in each other");
    reading->depth++;
    if (take(reading, "!")) {
        holds = !read_one(reading);
    } else if (take(reading, "(")) {
        holds = read_either(reading);
        if (!take(reading, ")"))
            fail(reading, "a ) is expected");
    } else {
        holds = read_comparison(reading);
    }
    reading->depth--;
    return holds;
}

static bool read_all(struct reading *reading) {
    bool holds = read_one(reading);
    while (reading->fault == NULL && (take(reading, "&&") || take(reading, ","))) {
        bool next = read_one(reading);
        holds = holds && next;
    }
    return holds;
}

static bool read_either(struct reading *reading) {
    bool holds = read_all(reading);
    while (reading->fault == NULL && take(reading, "||")) {
        bool next = read_all(reading);
        holds = holds || next;
    }
    return holds;
}

static json_t *nothing(void *context, const char *name) {
    return NULL;
}

static struct reading begin(const struct expression *expression, expression_value *value, void *context) {
    return (struct reading){.next = expression->text,
                            .end = expression->text + expression->length,
                            .list = expression->list,
                            .value = value,
                            .context = context};
}

char *expression_fault(const struct expression *expression) {
    struct reading reading = begin(expression, nothing, NULL);
    if (expression->length > EXPRESSION_MAX)
        return text_format("the expression is longer than %d bytes", EXPRESSION_MAX);
    read_either(&reading);
    skip_spaces(&reading);
    if (reading.fault == NULL && reading.next < reading.end)
        reading.fault = "this cannot be understood";
    return reading.fault != NULL ? text_format("%s at byte %d of the expression", reading.fault,
                                               (int)(reading.next - expression->text) + 1)
                                 : NULL;
}

bool expression_holds(const struct expression *expression, expression_value *value, void *context) {
    struct reading reading = begin(expression, value, context);
    bool holds = read_either(&reading);
    for (size_t i = 0; i < reading.known_count; i++)
        json_decref(reading.known[i].value);
    return holds;
}
