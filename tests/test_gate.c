// The gate: when connections are read, held and let go, and who may come in.
#include <criterion/criterion.h>
#include <string.h>

#include "gateway/channels/gate.h"

static uv_loop_t loop;
static struct gate *gate;
static size_t held, most_at_once;
static int resumptions;

static size_t resume(void *context, size_t count) {
    size_t resumed = held < count ? held : count;
    held -= resumed;
    most_at_once = resumed > most_at_once ? resumed : most_at_once;
    resumptions++;
    return resumed;
}

static void set_up(void) {
    uv_loop_init(&loop);
    gate = gate_new(&loop, resume, NULL);
    held = most_at_once = 0;
    resumptions = 0;
    uv_run(&loop, UV_RUN_NOWAIT);
}

static void tear_down(void) {
    gate_stop(gate);
    uv_run(&loop, UV_RUN_DEFAULT);
    gate_free(gate);
    cr_assert(uv_loop_close(&loop) == 0, "a handle is left on the loop");
}

TestSuite(gate, .init = set_up, .fini = tear_down);

static void do_nothing(uv_timer_t *timer) {
}

// A loop with nothing to do would not turn.
static void turn(void) {
    uv_timer_t timer;
    uv_timer_init(&loop, &timer);
    uv_timer_start(&timer, do_nothing, 0, 0);
    uv_run(&loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(&loop, UV_RUN_NOWAIT);
}

Test(gate, bounds_what_is_read_in_a_turn) {
    turn();
    cr_assert(gate_reads(gate));
    gate_has_read(gate, 1000);
    cr_assert(gate_reads(gate));
    gate_has_read(gate, 1 << 20);
    cr_assert(!gate_reads(gate));
    turn();
    cr_assert(gate_reads(gate), "the next turn has its own portion");
}

Test(gate, holds_connections_while_the_outbox_is_busy_and_datagrams_only_when_it_is_full) {
    static const struct {
        enum outbox_intake intake;
        bool changed, reads, closed;
    } steps[] = {
        {OUTBOX_BUSY, false, false, false}, {OUTBOX_FULL, true, false, true},
        {OUTBOX_FULL, false, false, true},  {OUTBOX_BUSY, true, false, false},
        {OUTBOX_TAKES, false, true, false}, {OUTBOX_FULL, true, false, true},
        {OUTBOX_TAKES, true, true, false},
    };
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        cr_expect_eq(gate_set_intake(gate, steps[i].intake), steps[i].changed, "step %zu", i);
        turn();
        cr_expect_eq(gate_reads(gate), steps[i].reads, "step %zu", i);
        cr_expect_eq(gate_is_closed(gate), steps[i].closed, "step %zu", i);
    }
}

// What is in the background waits then: of strangers there is enough.
Test(gate, reads_no_strangers_while_it_is_crowded) {
    gate_set_intake(gate, OUTBOX_CROWDED);
    turn();
    cr_expect(gate_reads(gate) && !gate_lets_strangers(gate));
    gate_set_intake(gate, OUTBOX_TAKES);
    turn();
    cr_expect(gate_reads(gate) && gate_lets_strangers(gate));
}

Test(gate, lets_held_connections_go_a_few_at_a_time) {
    gate_set_intake(gate, OUTBOX_BUSY);
    held = 30;
    gate_resume_soon(gate);
    turn();
    cr_expect_eq(held, 30, "not while the outbox is busy");
    gate_set_intake(gate, OUTBOX_TAKES);
    for (int i = 0; i < 100 && held > 0; i++)
        turn();
    cr_expect_eq(held, 0);
    cr_expect_leq(most_at_once, 4);
    turn();
    int before = resumptions;
    turn();
    cr_expect_eq(resumptions, before, "with nobody left it rests");
}

#define MANY 500 // connections: more than there is room for at first

static long room_for_descriptors(void) {
    char line[256];
    long room = 0;
    FILE *file = fopen("/proc/self/status", "r");
    cr_assert_not_null(file);
    while (fgets(line, sizeof line, file) != NULL)
        sscanf(line, "FDSize: %ld", &room);
    fclose(file);
    return room;
}

// The system doubles its table of them when it is full, and a process with threads waits for that: 10 ms or more.
Test(gate, has_room_for_the_descriptors_of_all_connections_before_they_come) {
    gate_allow_connections(gate, MANY);
    cr_expect_geq(room_for_descriptors(), MANY);
}

#define PLACES 8 // of which two at most are kept

static struct gate_guest guests[PLACES];

// Returns how many of so many strangers have a place beside a registry of so many devices.
static int strangers_with_a_place(int count, size_t listed) {
    int places = 0;
    for (int i = 0; i < count; i++) {
        gate_guest_comes(gate, &guests[i]);
        places += gate_guest_is_named(gate, &guests[i], false, listed);
    }
    for (int i = 0; i < count; i++)
        gate_guest_goes(gate, &guests[i]);
    return places;
}

Test(gate, keeps_places_for_devices_of_the_registry) {
    gate_allow_connections(gate, PLACES);
    cr_expect_eq(strangers_with_a_place(PLACES, 0), PLACES, "without a registry all are theirs");
    cr_expect_eq(strangers_with_a_place(PLACES, 1), PLACES - 1);
    cr_expect_eq(strangers_with_a_place(PLACES, 100), PLACES - PLACES / 4);
    gate_guest_comes(gate, &guests[0]);
    cr_expect(gate_guest_is_named(gate, &guests[0], true, 100));
    cr_expect_eq(strangers_with_a_place(PLACES, 100), PLACES - PLACES / 4, "a device of it is none of them");
    gate_guest_goes(gate, &guests[0]);
}

Test(gate, knows_which_nameless_one_is_there_longest) {
    gate_allow_connections(gate, PLACES);
    for (int i = 0; i < 3; i++)
        gate_guest_comes(gate, &guests[i]);
    cr_expect(gate_longest_nameless(gate, 0) == NULL, "without a registry nobody makes way");
    cr_expect(gate_longest_nameless(gate, 1) == &guests[0]);
    gate_guest_is_named(gate, &guests[0], false, 1);
    cr_expect(gate_longest_nameless(gate, 1) == &guests[1]);
    gate_guest_goes(gate, &guests[1]);
    cr_expect(gate_longest_nameless(gate, 1) == &guests[2]);
    gate_guest_goes(gate, &guests[2]);
    cr_expect(gate_longest_nameless(gate, 1) == NULL);
}

Test(gate, counts_connections_by_address_and_in_all) {
    static const unsigned char one[16] = {1}, two[16] = {2};
    gate_allow_connections(gate, 2);
    cr_assert_eq(gate_connections_max(gate), 2);
    struct gate_address *a = gate_enter(gate, one), *b = gate_enter(gate, two);
    cr_expect(!gate_is_crowded(gate));
    cr_expect_eq(gate_enter(gate, one), a);
    cr_expect_eq(gate_count_from(a), 2);
    cr_expect_eq(gate_count_from(b), 1);
    cr_expect(gate_is_crowded(gate));
    gate_leave(gate, b);
    cr_expect(!gate_is_crowded(gate));
    gate_leave(gate, a);
    cr_expect_eq(gate_count_from(a), 1);
    gate_leave(gate, a);
    a = gate_enter(gate, one);
    cr_expect_eq(gate_count_from(a), 1, "an address that has left begins at none");
    gate_leave(gate, a);
}
