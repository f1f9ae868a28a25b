// The packed last values of a device, alone: by example, and against a naive model with random operations.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/state/values.h"

static struct values values;

static void set_up(void) {
    values = (struct values){.length = 0};
}

static void tear_down(void) {
    values_free(&values);
}

TestSuite(values, .init = set_up, .fini = tear_down);

static struct message_member member_of(enum field field, const char *index, const char *text) {
    return (struct message_member){
        .field = field, .index = index, .index_length = strlen(index), .value = text, .length = strlen(text)};
}

static enum value_put put(enum field field, const char *index, const char *text, int64_t timestamp) {
    const struct message_member member = member_of(field, index, text);
    size_t hint = 0;
    return values_put(&values, values_find(&values, &member, &hint), &member, timestamp, &hint);
}

static struct value *find(enum field field, const char *index) {
    const struct message_member member = member_of(field, index, "");
    size_t hint = 0;
    return values_find(&values, &member, &hint);
}

static void expect(enum field field, const char *index, const char *text) {
    const struct value *value = find(field, index);
    cr_assert(value != NULL, "%s.%s is not there", value_name(field), index);
    cr_assert(value->length == strlen(text) && memcmp(value_text(value), text, value->length) == 0,
              "%s.%s is %.*s, expected %s", value_name(field), index, (int)value->length, value_text(value),
              text);
}

static void publish_all(void) {
    for (struct value *value = NULL; (value = values_next(&values, value)) != NULL;)
        value->generation = 1;
}

// An indexed field of the dictionary.
static enum field indexed_field(void) {
    for (enum field field = FIELD_NONE + 1; field < FIELD_COUNT; field++)
        if (field_table[field].indexed && field_table[field].list == FIELD_NONE)
            return field;
    cr_assert_fail("the dictionary has no indexed field");
    return FIELD_NONE;
}

// --- putting and finding ---

Test(values, has_nothing_at_first) {
    cr_assert(find(FIELD_POSITION_SPEED, "") == NULL);
    cr_assert(values_next(&values, NULL) == NULL);
    cr_assert(values_named(&values, "position.speed") == NULL);
}

Test(values, keeps_what_is_put) {
    cr_assert_eq(put(FIELD_POSITION_SPEED, "", "12.5", 100), VALUE_CHANGED);
    cr_assert_eq(put(FIELD_DEVICE_NAME, "", "\"van\"", 100), VALUE_CHANGED);
    expect(FIELD_POSITION_SPEED, "", "12.5");
    expect(FIELD_DEVICE_NAME, "", "\"van\"");
    cr_assert_eq(find(FIELD_POSITION_SPEED, "")->timestamp, 100);
    cr_assert(find(FIELD_POSITION_SATELLITES, "") == NULL);
}

Test(values, replaces_by_longer_shorter_and_as_long) {
    put(FIELD_DEVICE_ID, "", "1", 1);
    put(FIELD_DEVICE_NAME, "", "\"van\"", 1);
    put(FIELD_POSITION_SPEED, "", "7", 1);
    static const char *const texts[] = {"\"a much longer name\"", "\"b\"", "\"c\"", "\"\"", "\"van again\""};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        cr_assert_eq(put(FIELD_DEVICE_NAME, "", texts[i], 2), VALUE_CHANGED);
        expect(FIELD_DEVICE_ID, "", "1");
        expect(FIELD_DEVICE_NAME, "", texts[i]);
        expect(FIELD_POSITION_SPEED, "", "7");
    }
}

Test(values, tells_what_is_the_same) {
    put(FIELD_POSITION_SPEED, "", "12.5", 100);
    publish_all();
    cr_assert_eq(put(FIELD_POSITION_SPEED, "", "12.5", 200), VALUE_KEPT);
    cr_assert_eq(find(FIELD_POSITION_SPEED, "")->timestamp, 200, "but it is of the later report now");
    cr_assert(find(FIELD_POSITION_SPEED, "")->generation != 0);
    cr_assert_eq(put(FIELD_POSITION_SPEED, "", "12.6", 200), VALUE_CHANGED);
    cr_assert(find(FIELD_POSITION_SPEED, "")->generation == 0);
}

Test(values, leaves_older_ones_out) {
    put(FIELD_POSITION_SPEED, "", "12.5", 100);
    publish_all();
    cr_assert_eq(put(FIELD_POSITION_SPEED, "", "99", 99), VALUE_KEPT);
    expect(FIELD_POSITION_SPEED, "", "12.5");
    cr_assert_eq(find(FIELD_POSITION_SPEED, "")->timestamp, 100);
    cr_assert(find(FIELD_POSITION_SPEED, "")->generation != 0);
}

Test(values, tells_indexes_apart) {
    enum field field = indexed_field();
    put(field, "1", "10", 1);
    put(field, "12", "20", 1);
    put(field, "2", "30", 1);
    expect(field, "1", "10");
    expect(field, "12", "20");
    expect(field, "2", "30");
    cr_assert(find(field, "") == NULL);
    cr_assert(find(field, "21") == NULL);
}

// --- hints ---

static const enum field in_order[] = {FIELD_DEVICE_ID, FIELD_DEVICE_NAME, FIELD_POSITION_SPEED,
                                      FIELD_POSITION_SATELLITES};
#define IN_ORDER (sizeof in_order / sizeof in_order[0])

Test(values, a_report_in_the_same_order_finds_each_where_the_hint_says) {
    for (size_t i = 0; i < IN_ORDER; i++)
        put(in_order[i], "", "1", 1);
    size_t hint = 0;
    const struct value *next = values_next(&values, NULL);
    for (size_t i = 0; i < IN_ORDER; i++) {
        const struct message_member member = member_of(in_order[i], "", "1");
        cr_assert(values_find(&values, &member, &hint) == next);
        next = values_next(&values, next);
        size_t after = next != NULL ? (size_t)((const uint8_t *)next - values.entries) : values.length;
        cr_assert_eq(hint, after);
    }
}

Test(values, finds_what_stands_before_the_hint) {
    for (size_t i = 0; i < IN_ORDER; i++)
        put(in_order[i], "", "1", 1);
    for (size_t i = 0; i < IN_ORDER; i++) {
        const struct message_member member = member_of(in_order[i], "", "1");
        size_t hint = values.length;
        const struct value *value = values_find(&values, &member, &hint);
        cr_assert(value != NULL && value->field == in_order[i]);
    }
}

Test(values, a_hint_stays_good_when_a_value_gets_another_length) {
    for (size_t i = 0; i < IN_ORDER; i++)
        put(in_order[i], "", "1", 1);
    static const char *const texts[] = {"1234567", "", "1", "12"};
    size_t hint = 0;
    for (size_t i = 0; i < IN_ORDER; i++) {
        const struct message_member member = member_of(in_order[i], "", texts[i]);
        values_put(&values, values_find(&values, &member, &hint), &member, 2, &hint);
        cr_assert(hint <= values.length);
    }
    cr_assert_eq(hint, values.length);
    for (size_t i = 0; i < IN_ORDER; i++)
        expect(in_order[i], "", texts[i]);
}

// --- the bound ---

// A text that takes all the room that there is for a value without an index, but for spare bytes.
static char *fill_text(size_t spare) {
    size_t length = VALUES_MAX - values.length - sizeof(struct value) - spare;
    char *text = malloc(length + 1);
    memset(text, '1', length);
    text[length] = '\0';
    return text;
}

Test(values, takes_exactly_as_much_as_fits) {
    put(FIELD_DEVICE_ID, "", "1", 1);
    char *text = fill_text(0);
    cr_assert_eq(put(FIELD_DEVICE_NAME, "", text, 1), VALUE_CHANGED);
    cr_assert_eq(values.length, VALUES_MAX);
    expect(FIELD_DEVICE_NAME, "", text);
    expect(FIELD_DEVICE_ID, "", "1");
    cr_assert_eq(put(FIELD_POSITION_SPEED, "", "7", 1), VALUE_NO_ROOM);
    cr_assert(find(FIELD_POSITION_SPEED, "") == NULL);
    expect(FIELD_DEVICE_NAME, "", text);
    free(text);
}

Test(values, does_not_take_a_byte_more) {
    put(FIELD_DEVICE_ID, "", "1", 1);
    char *text = fill_text(0), *longer = malloc(strlen(text) + 2);
    sprintf(longer, "%s1", text);
    cr_assert_eq(put(FIELD_DEVICE_NAME, "", longer, 1), VALUE_NO_ROOM);
    cr_assert(find(FIELD_DEVICE_NAME, "") == NULL);
    cr_assert_eq(put(FIELD_DEVICE_NAME, "", text, 1), VALUE_CHANGED);
    free(text);
    free(longer);
}

Test(values, forgets_a_value_that_has_become_too_long) {
    put(FIELD_DEVICE_NAME, "", "\"van\"", 1);
    put(FIELD_POSITION_SPEED, "", "7", 1);
    char *text = fill_text(0);
    put(FIELD_POSITION_SATELLITES, "", text, 1);
    cr_assert_eq(put(FIELD_DEVICE_NAME, "", "\"vans\"", 2), VALUE_NO_ROOM);
    cr_assert(find(FIELD_DEVICE_NAME, "") == NULL, "an old value would be believed");
    expect(FIELD_POSITION_SPEED, "", "7");
    expect(FIELD_POSITION_SATELLITES, "", text);
    cr_assert_eq(put(FIELD_DEVICE_NAME, "", "\"van\"", 3), VALUE_CHANGED, "and its room is free");
    free(text);
}

// --- removing, marking, naming ---

Test(values, removes_those_of_earlier_reports) {
    put(FIELD_DEVICE_ID, "", "1", 10);
    put(FIELD_DEVICE_NAME, "", "\"van\"", 20);
    put(FIELD_POSITION_SPEED, "", "7", 30);
    put(FIELD_POSITION_SATELLITES, "", "8", 19);
    values_remove_before(&values, 20);
    cr_assert(find(FIELD_DEVICE_ID, "") == NULL);
    cr_assert(find(FIELD_POSITION_SATELLITES, "") == NULL);
    expect(FIELD_DEVICE_NAME, "", "\"van\"");
    expect(FIELD_POSITION_SPEED, "", "7");
    values_remove_before(&values, 31);
    cr_assert(values_next(&values, NULL) == NULL);
}

Test(values, marks_all) {
    put(FIELD_DEVICE_ID, "", "1", 1);
    put(FIELD_DEVICE_NAME, "", "\"van\"", 1);
    publish_all();
    values_mark(&values);
    cr_assert(find(FIELD_DEVICE_ID, "")->generation == 0);
    cr_assert(find(FIELD_DEVICE_NAME, "")->generation == 0);
}

static void put_speed_and_course(void) {
    put(FIELD_POSITION_SPEED, "", "62", 1);
    put(FIELD_POSITION_DIRECTION, "", "180", 1);
    find(FIELD_POSITION_SPEED, "")->generation = 5;
    find(FIELD_POSITION_DIRECTION, "")->generation = 9;
}

Test(values, of_some_generations_are_due) {
    put_speed_and_course();
    cr_assert(!values_mark_between(&values, 9, 20) && !values_mark_between(&values, 5, 9));
    cr_assert(values_mark_between(&values, 4, 9));
    cr_assert(find(FIELD_POSITION_SPEED, "")->generation == 0);
    cr_assert(find(FIELD_POSITION_DIRECTION, "")->generation == 9);
}

Test(values, are_known_by_the_names_in_topics) {
    enum field field = indexed_field();
    char name[128];
    put(FIELD_NONE, "", "{}", 1);
    put(FIELD_POSITION_SPEED, "", "7", 1);
    put(field, "12", "20", 1);
    cr_assert(values_named(&values, "position"));
    cr_assert(values_named(&values, "position.speed"));
    cr_assert(values_named(&values, "position.spee") == NULL);
    cr_assert(values_named(&values, "position.speeds") == NULL);
    cr_assert(values_named(&values, "position.speed.1") == NULL);
    static const struct {
        const char *rest;
        bool known;
    } rests[] = {{".12", true}, {"", false}, {".", false}, {".1", false}, {".123", false}, {"12", false}};
    for (size_t i = 0; i < sizeof rests / sizeof rests[0]; i++) {
        snprintf(name, sizeof name, "%s%s", field_table[field].key, rests[i].rest);
        cr_assert_eq(values_named(&values, name) != NULL, rests[i].known, "%s", name);
    }
}

// --- against a naive model ---

#define SLOTS    12
#define TEXT_MAX 400
#define ROUNDS   20000

// What there should be, in the order in which it was added.
static struct slot {
    bool used, due;
    enum field field;
    const char *index;
    int64_t timestamp;
    char text[TEXT_MAX + 1];
} model[SLOTS];
static size_t model_count;

static uint32_t seed;
static int64_t now; // reports come from some time around it

static uint32_t random_below(uint32_t bound) {
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)(((uint64_t)seed * bound) >> 32);
}

static size_t model_bytes(void) {
    size_t bytes = 0;
    for (size_t i = 0; i < model_count; i++)
        bytes += sizeof(struct value) + strlen(model[i].index) + strlen(model[i].text);
    return bytes;
}

static size_t model_find(const struct message_member *member) {
    size_t i = 0;
    while (i < model_count && (model[i].field != member->field || strcmp(model[i].index, member->index) != 0))
        i++;
    return i;
}

static void model_remove(size_t i) {
    memmove(&model[i], &model[i + 1], (--model_count - i) * sizeof model[0]);
}

static enum value_put model_put(const struct message_member *member, int64_t timestamp) {
    size_t i = model_find(member);
    if (i < model_count && timestamp < model[i].timestamp)
        return VALUE_KEPT;
    if (i < model_count && strcmp(model[i].text, member->value) == 0) {
        model[i].timestamp = timestamp;
        return VALUE_KEPT;
    }
    size_t old = i < model_count ? strlen(model[i].text) : 0;
    size_t header = i < model_count ? 0 : sizeof(struct value) + member->index_length;
    if (model_bytes() - old + header + member->length > VALUES_MAX) {
        if (i < model_count)
            model_remove(i);
        return VALUE_NO_ROOM;
    }
    model_count += i == model_count;
    model[i] =
        (struct slot){.due = true, .field = member->field, .index = member->index, .timestamp = timestamp};
    memcpy(model[i].text, member->value, member->length + 1);
    return VALUE_CHANGED;
}

static void model_remove_before(int64_t timestamp) {
    for (size_t i = model_count; i-- > 0;)
        if (model[i].timestamp < timestamp)
            model_remove(i);
}

static void compare(void) {
    const struct value *value = NULL;
    cr_assert_eq(values.length, model_bytes());
    for (size_t i = 0; i < model_count; i++) {
        value = values_next(&values, value);
        cr_assert(value != NULL);
        cr_assert_eq(value->field, model[i].field);
        cr_assert_eq(value->timestamp, model[i].timestamp);
        cr_assert_eq(value->generation == 0, model[i].due);
        cr_assert_eq(value->index_length, strlen(model[i].index));
        cr_assert(memcmp(value_index(value), model[i].index, value->index_length) == 0);
        cr_assert_eq(value->length, strlen(model[i].text));
        cr_assert(memcmp(value_text(value), model[i].text, value->length) == 0);
    }
    cr_assert(values_next(&values, value) == NULL);
}

static struct message_member random_member(char *text) {
    static const char *const indexes[] = {"1", "2", "12", "abcdefghijklmno"};
    bool indexed = random_below(2) == 0;
    size_t length = 1 + random_below(random_below(2) == 0 ? TEXT_MAX : 8);
    memset(text, (int)('0' + random_below(3)), length);
    text[length] = '\0';
    return indexed ? member_of(indexed_field(), indexes[random_below(4)], text)
                   : member_of(in_order[random_below(IN_ORDER)], "", text);
}

// A report's values are looked for with one hint, wherever it began.
static void random_report(unsigned *rooms) {
    size_t hint = 0;
    int64_t timestamp = now - random_below(20);
    for (unsigned left = random_below(6); left > 0; left--) {
        char text[TEXT_MAX + 1];
        const struct message_member member = random_member(text);
        struct value *value = values_find(&values, &member, &hint);
        cr_assert_eq(value != NULL, model_find(&member) < model_count);
        enum value_put expected = model_put(&member, timestamp);
        cr_assert_eq(values_put(&values, value, &member, timestamp, &hint), expected);
        *rooms += expected == VALUE_NO_ROOM;
        compare();
    }
}

static void random_operation(unsigned *rooms) {
    int64_t timestamp = now - random_below(40);
    now += random_below(5);
    switch (random_below(20)) {
    case 0:
        values_remove_before(&values, timestamp);
        model_remove_before(timestamp);
        break;
    case 1:
        values_mark(&values);
        for (size_t i = 0; i < model_count; i++)
            model[i].due = true;
        break;
    case 2:
        publish_all();
        for (size_t i = 0; i < model_count; i++)
            model[i].due = false;
        break;
    default:
        random_report(rooms);
        break;
    }
    compare();
}

Test(values, do_what_a_naive_model_does) {
    unsigned rooms = 0;
    model_count = 0;
    seed = 20260701;
    now = 1000;
    for (unsigned round = 0; round < ROUNDS; round++)
        random_operation(&rooms);
    cr_assert(rooms > 100, "only %u values found no room: the bound was hardly tried", rooms);
}
