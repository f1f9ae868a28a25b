// The publisher alone: who is asked to publish, in which order, and until when.
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "gateway/state/publisher.h"

#define DEADLINE 5000 // milliseconds
#define LOOK     100  // milliseconds within which what is due is looked at
#define SLACK    2000 // milliseconds that a busy machine may be late

// One that has something to publish: notes that it was asked, and has something left for so many times.
struct owner {
    char letter;
    unsigned left;
    unsigned asked;
};

static uv_loop_t loop;
static uv_timer_t deadline;
static struct publisher *publisher;
static struct owner first, second;
static char order[64]; // letters of those that were asked

static bool publish(void *context) {
    struct owner *owner = context;
    size_t length = strlen(order);
    if (length + 1 < sizeof order)
        order[length] = owner->letter;
    owner->asked++;
    if (owner->left > 0)
        owner->left--;
    return owner->left == 0;
}

static void set_up(void) {
    uv_loop_init(&loop);
    uv_timer_init(&loop, &deadline);
    publisher = publisher_new(&loop);
    first = (struct owner){.letter = 'a'};
    second = (struct owner){.letter = 'b'};
    memset(order, 0, sizeof order);
    publisher_add(publisher, publish, &first);
    publisher_add(publisher, publish, &second);
}

static void tear_down(void) {
    uv_close((uv_handle_t *)&deadline, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    publisher_free(publisher);
    cr_assert(uv_loop_close(&loop) == 0);
}

TestSuite(publisher, .init = set_up, .fini = tear_down);

static void on_deadline(uv_timer_t *timer) {
    cr_assert_fail("not in time");
}

// Runs the loop until the owner was asked so often.
static void run_until_asked(const struct owner *owner, unsigned times) {
    uv_ref((uv_handle_t *)&deadline);
    uv_timer_start(&deadline, on_deadline, DEADLINE, 0);
    while (owner->asked < times)
        uv_run(&loop, UV_RUN_ONCE);
    uv_timer_stop(&deadline);
}

// Runs the loop until nothing is active in it any more: the publisher has nothing to look at.
static void run_until_idle(void) {
    uv_timer_start(&deadline, on_deadline, DEADLINE, 0);
    uv_unref((uv_handle_t *)&deadline);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_timer_stop(&deadline);
}

Test(publisher, asks_in_the_order_of_adding) {
    publisher_open(publisher);
    cr_assert(publisher_publish(publisher));
    cr_assert_str_eq(order, "ab");
    publisher_stop(publisher);
}

Test(publisher, publishes_nothing_until_opened) {
    cr_assert(!publisher_is_open(publisher));
    publisher_wake(publisher);
    cr_assert(!publisher_publish(publisher), "something may be left");
    run_until_idle();
    cr_assert_str_eq(order, "");
    publisher_open(publisher); // what was due until then is not forgotten
    cr_assert(publisher_is_open(publisher));
    run_until_asked(&second, 1);
    cr_assert_str_eq(order, "ab");
    publisher_stop(publisher);
}

Test(publisher, is_asked_when_opened_and_then_not_without_being_woken) {
    publisher_open(publisher);
    run_until_idle();
    cr_assert_str_eq(order, "ab", "what has become due until it was opened");
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_str_eq(order, "ab");
    publisher_stop(publisher);
}

Test(publisher, looks_soon_when_woken) {
    publisher_open(publisher);
    run_until_idle();
    uint64_t woken = uv_now(&loop);
    publisher_wake(publisher);
    cr_assert_eq(second.asked, 1, "not from within wake");
    run_until_asked(&second, 2);
    uint64_t took = uv_now(&loop) - woken;
    cr_assert(took <= LOOK + SLACK, "%llu ms", (unsigned long long)took);
    publisher_stop(publisher);
}

Test(publisher, looks_once_however_often_it_is_woken) {
    publisher_open(publisher);
    for (int i = 0; i < 10; i++)
        publisher_wake(publisher);
    run_until_idle();
    cr_assert_str_eq(order, "ab");
    publisher_stop(publisher);
}

Test(publisher, waking_again_does_not_put_the_look_off) {
    publisher_open(publisher);
    publisher_wake(publisher);
    uint64_t end = uv_now(&loop) + DEADLINE;
    while (first.asked == 0 && uv_now(&loop) < end) {
        publisher_wake(publisher);
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    cr_assert(first.asked > 0, "it was put off for ever");
    publisher_stop(publisher);
}

Test(publisher, retries_until_nothing_is_left) {
    second.left = 3;
    publisher_open(publisher);
    publisher_wake(publisher);
    run_until_idle();
    cr_assert_str_eq(order, "ababab");
    publisher_stop(publisher);
}

Test(publisher, one_that_has_something_left_does_not_keep_others_from_publishing) {
    first.left = 2;
    publisher_open(publisher);
    cr_assert(!publisher_publish(publisher));
    cr_assert_str_eq(order, "ab");
    cr_assert(publisher_publish(publisher));
    cr_assert_str_eq(order, "abab");
    publisher_stop(publisher);
}

Test(publisher, can_be_woken_again_when_nothing_was_left) {
    publisher_open(publisher);
    publisher_wake(publisher);
    run_until_idle();
    publisher_wake(publisher);
    run_until_idle();
    cr_assert_str_eq(order, "abab");
    publisher_stop(publisher);
}

// One that has become due while it was published.
static bool wake_once(void *context) {
    unsigned *asked = context;
    if (++*asked == 1)
        publisher_wake(publisher);
    return *asked > 1;
}

Test(publisher, can_be_woken_while_it_publishes) {
    unsigned asked = 0;
    publisher_add(publisher, wake_once, &asked);
    publisher_open(publisher);
    cr_assert(!publisher_publish(publisher));
    run_until_idle();
    cr_assert_eq(asked, 2);
    publisher_stop(publisher);
}

Test(publisher, can_be_stopped_with_something_due) {
    second.left = 1000;
    publisher_open(publisher);
    publisher_wake(publisher);
    run_until_asked(&second, 1);
    publisher_stop(publisher);
    publisher_wake(publisher); // too late, and no harm
    run_until_idle();
    cr_assert_str_eq(order, "ab");
    cr_assert(!publisher_publish(publisher), "who asks is told that something is left");
}

// Once, when it becomes due, and not every 100 ms until then.
Test(publisher, looks_once_when_something_becomes_due) {
    publisher_open(publisher);
    run_until_idle();
    unsigned before = first.asked;
    uint64_t begun = uv_now(&loop);
    publisher_wake_in(publisher, 5 * LOOK);
    publisher_wake_in(publisher, 4 * LOOK);
    publisher_wake_in(publisher, 6 * LOOK);
    run_until_idle();
    cr_assert_eq(first.asked, before + 1, "asked %u times", first.asked - before);
    cr_assert_geq(uv_now(&loop) - begun, 4 * LOOK);
    publisher_wake_in(publisher, 0);
    begun = uv_now(&loop);
    run_until_idle();
    cr_assert_geq(uv_now(&loop) - begun, LOOK, "many that become due would be looked at one by one");
    publisher_stop(publisher);
}
