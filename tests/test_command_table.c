// The table of commands: random operations against a naive model, and its limits.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/commands/redelivery.h"
#include "gateway/commands/table.h"

#define KEYS       4
#define STEPS      10000
#define COUNT_MAX  100 // commands of the model
#define PRIORITIES 3

static struct command_table table;

static const char *key_of(int device, char key[COMMAND_KEY_MAX]) {
    return command_key(key, device, 0, "");
}

static struct command *new_command(int64_t id, int device, int priority) {
    char key[COMMAND_KEY_MAX];
    struct command *command = calloc(1, sizeof *command);
    command->id = id;
    command->key = strdup(key_of(device, key));
    command->priority = priority;
    return command;
}

static void clear(void) {
    command_table_clear(&table);
    cr_assert(table.by_id == NULL && table.targets == NULL && table.pending == 0);
}

TestSuite(command_table, .fini = clear);

// --- the model: an array, searched and sorted for each question ---

static struct model {
    int64_t id;
    int device, priority;
    bool waits;
} model[COUNT_MAX];
static size_t model_count;
static int64_t model_last; // number that was given last

static bool model_has(int64_t id) {
    for (size_t i = 0; i < model_count; i++)
        if (model[i].id == id)
            return true;
    return false;
}

static int by_order(const void *a, const void *b) {
    const struct model *one = a, *other = b;
    if (one->priority != other->priority)
        return other->priority - one->priority;
    return one->id < other->id ? -1 : 1;
}

// What waits for a device, in order; returns how many.
static size_t model_waiting(int device, struct model waiting[COUNT_MAX]) {
    size_t count = 0;
    for (size_t i = 0; i < model_count; i++)
        if (model[i].device == device && model[i].waits)
            waiting[count++] = model[i];
    qsort(waiting, count, sizeof waiting[0], by_order);
    return count;
}

// --- both alike ---

static size_t expect_target(int device) {
    char key[COMMAND_KEY_MAX];
    struct model waiting[COUNT_MAX];
    size_t count = model_waiting(device, waiting), i = 0;
    const struct command_target *target = command_table_target(&table, key_of(device, key));
    cr_assert((target != NULL) == (count > 0), "%s: %zu wait", key, count);
    if (target == NULL)
        return 0;
    cr_assert(target->count == count, "%s: %zu, expected %zu", key, target->count, count);
    for (const struct command *command = target->commands; command != NULL; command = command->next, i++) {
        cr_assert(i < count && command->id == waiting[i].id, "%s: place %zu", key, i);
        cr_assert(command->target == target);
    }
    cr_assert(i == count, "%s: %zu in the list, expected %zu", key, i, count);
    return count;
}

static void expect_alike(void) {
    size_t pending = 0;
    for (int device = 0; device < KEYS; device++)
        pending += expect_target(device);
    cr_assert(table.pending == pending, "%zu pending, expected %zu", table.pending, pending);
    cr_assert(HASH_COUNT(table.by_id) == model_count);
    for (size_t i = 0; i < model_count; i++) {
        const struct command *command = command_table_find(&table, model[i].id);
        cr_assert(command != NULL && command->id == model[i].id);
    }
}

// --- operations ---

static unsigned long long random_state;

static int random_below(int limit) {
    random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (int)((random_state >> 33) % (unsigned)limit);
}

static void add(int64_t id) {
    struct model one = {.id = id,
                        .device = random_below(KEYS),
                        .priority = random_below(PRIORITIES) - 1,
                        .waits = random_below(5) > 0};
    struct command *command = new_command(id, one.device, one.priority);
    command->state = one.waits ? COMMAND_SENT : COMMAND_EXPIRED;
    model[model_count++] = one;
    command_table_add(&table, command);
}

// The clock jumps about, backwards too.
static void add_with_new_id(void) {
    int64_t id = command_table_new_id(&table, 1000 + random_below(5000));
    cr_assert(id > model_last, "%lld after %lld", (long long)id, (long long)model_last);
    cr_assert(!model_has(id), "%lld is in the table", (long long)id);
    model_last = id;
    add(id);
}

// From another instance, whose clock may be ahead.
static void add_with_id_of_another(void) {
    int64_t id = model_last + random_below(200) - 100;
    if (id > 0 && !model_has(id))
        add(id);
}

static void note_id(void) {
    int64_t id = model_last + random_below(40) - 20;
    command_table_note_id(&table, id);
    model_last = id > model_last ? id : model_last;
}

static void leave(void) {
    struct model *one = &model[random_below((int)model_count)];
    struct command *command = command_table_find(&table, one->id);
    command->state = COMMAND_PROCESSED;
    one->waits = false;
    command_table_leave_target(&table, command);
    cr_assert(command->target == NULL);
}

static void drop(void) {
    size_t at = (size_t)random_below((int)model_count);
    int64_t id = model[at].id;
    command_table_drop(&table, command_table_find(&table, id));
    model[at] = model[--model_count];
    cr_assert(command_table_find(&table, id) == NULL);
}

// Fills and empties in turn, so that targets come and go.
static void step(int number) {
    bool fills = number / 500 % 2 == 0;
    int what = random_below(10);
    if (model_count < COUNT_MAX && what < (fills ? 6 : 1))
        random_below(2) == 0 ? add_with_new_id() : add_with_id_of_another();
    else if (what == 9)
        note_id();
    else if (model_count > 0)
        what % 2 == 0 ? leave() : drop();
}

Test(command_table, is_as_a_naive_one) {
    size_t emptied = 0, fullest = 0;
    random_state = 1;
    for (int i = 0; i < STEPS; i++) {
        step(i);
        expect_alike();
        emptied += table.targets == NULL;
        fullest = model_count > fullest ? model_count : fullest;
    }
    // What it was to go through it has gone through.
    cr_assert(emptied > 0 && fullest > 50, "%zu times empty, at most %zu", emptied, fullest);
}

// --- numbers ---

Test(command_table, a_number_is_the_time) {
    cr_assert(command_table_new_id(&table, 1700000000000000) == 1700000000000000);
    cr_assert(command_table_new_id(&table, 1700000000000007) == 1700000000000007);
}

Test(command_table, numbers_grow_when_the_clock_goes_back) {
    cr_assert(command_table_new_id(&table, 500) == 500);
    cr_assert(command_table_new_id(&table, 500) == 501);
    cr_assert(command_table_new_id(&table, 3) == 502);
    command_table_note_id(&table, 600);
    command_table_note_id(&table, 550);
    cr_assert(command_table_new_id(&table, 3) == 601);
}

Test(command_table, a_number_that_another_instance_gave_is_passed_over) {
    command_table_add(&table, new_command(500, 1, 0));
    command_table_add(&table, new_command(501, 1, 0));
    cr_assert(command_table_new_id(&table, 500) == 502);
}

Test(command_table, numbers_in_a_row_pass_over_those_that_are_given) {
    command_table_note_id(&table, 100);
    command_table_add(&table, new_command(104, 1, 0));
    int64_t first = command_table_new_ids(&table, 0, 10);
    cr_assert_eq(first, 105, "it is %lld", (long long)first);
    cr_assert_eq(command_table_new_id(&table, 0), 115);
    cr_assert_eq(command_table_new_ids(&table, 1000, 2), 1000);
}

// --- limits ---

static void fill(int device, int count) {
    for (int i = 0; i < count; i++)
        command_table_add(&table, new_command(command_table_new_id(&table, 0), device, 0));
}

static void expect_full(int device, const char *words) {
    char key[COMMAND_KEY_MAX];
    const char *full = command_table_full(&table, key_of(device, key));
    cr_assert((full != NULL) == (words != NULL), "%s", full != NULL ? full : "not full");
    cr_assert(words == NULL || strstr(full, words) != NULL, "%s", full);
}

Test(command_table, a_device_has_its_limit) {
    fill(1, COMMANDS_PER_DEVICE_MAX - 1);
    expect_full(1, NULL);
    fill(1, 1);
    expect_full(1, "one device");
    expect_full(2, NULL);
    struct command *first = command_table_target(&table, "devices/1")->commands;
    first->state = COMMAND_CANCELED;
    command_table_leave_target(&table, first); // what has ended does not count
    expect_full(1, NULL);
}

Test(command_table, all_have_their_limit) {
    for (int device = 1; device <= COMMANDS_MAX / COMMANDS_PER_DEVICE_MAX; device++)
        fill(device, COMMANDS_PER_DEVICE_MAX - 1);
    expect_full(1, NULL);
    fill(0, COMMANDS_MAX - (int)table.pending - 1);
    expect_full(1, NULL);
    fill(1, 1);
    expect_full(1, "one device");
    expect_full(2, "in all");
    expect_full(9999, "in all");
    command_table_drop(&table, command_table_target(&table, "devices/2")->commands);
    expect_full(2, NULL);
}

// --- a publish that is delivered again ---

#define MID   12315
#define PRINT 77

static void begin(struct redelivery *redelivery) {
    redelivery_begin(redelivery, HASH_COUNT(table.by_id), 0);
    for (const struct command *command = table.by_id; command != NULL; command = command->hh.next)
        redelivery_add(redelivery, &(struct redelivery_publish){.fingerprint = command->publish,
                                                                .mid = command->mid,
                                                                .nth = command->nth,
                                                                .id = command->id});
}

static int64_t twin_of(uint64_t came, uint64_t comes_again, bool once) {
    struct redelivery *redelivery = redelivery_new();
    struct command *command = new_command(5, 1, 0);
    command->publish = PRINT;
    command->mid = MID;
    command->nth = came;
    command_table_add(&table, command);
    begin(redelivery);
    int64_t twin = redelivery_twin(redelivery, PRINT, MID, comes_again, once);
    redelivery_free(redelivery);
    command_table_clear(&table);
    return twin;
}

// After 65,535 publishes a packet id is another one's. Of equal commands the second would be lost.
Test(command_table, a_packet_id_that_has_gone_round_is_a_new_publish) {
    cr_expect_eq(twin_of(100, 101, false), 5);
    cr_expect_eq(twin_of(100, 50000, false), 5);
    cr_expect_eq(twin_of(100, 65635, false), 0);
    cr_expect_eq(twin_of(100, 65635, true), 5, "one that must not happen twice is not risked");
    cr_expect_eq(twin_of(0, 50000, false), 5);
    cr_expect_eq(twin_of(0, 65635, false), 0, "one of an earlier run came before all of this one");
}

#define EQUAL 5000

static void add_equal(void) {
    for (int64_t id = 1; id <= EQUAL; id++) {
        struct command *command = new_command(id, (int)(id / 1000), 0);
        command->publish = PRINT;
        command->mid = (int)(id % 1000) + 1;
        command_table_add(&table, command);
    }
}

// Of a broker that numbers anew, with thousands of equal ones: each is found at once.
Test(command_table, equal_publishes_that_come_again_are_not_looked_through_for_each) {
    struct redelivery *redelivery = redelivery_new();
    add_equal();
    begin(redelivery);
    for (int64_t id = EQUAL; id > EQUAL / 2; id--)
        cr_assert_eq(redelivery_twin(redelivery, PRINT, 60000, 0, true), id, "not the newest that is left");
    cr_assert_eq(redelivery_twin(redelivery, PRINT, 1, 0, false), EQUAL / 2 - 500);
    for (int64_t id = EQUAL / 2; id > 0; id--)
        if (id != EQUAL / 2 - 500)
            cr_assert_eq(redelivery_twin(redelivery, PRINT, 60000, 0, true), id,
                         "not the newest that is left");
    cr_assert_eq(redelivery_twin(redelivery, PRINT, 1, 0, true), 0, "each stands for one");
    cr_assert(redelivery_looked_at(redelivery) <= 2 * EQUAL, "%zu were looked at",
              redelivery_looked_at(redelivery));
    redelivery_free(redelivery);
    command_table_clear(&table);
}
