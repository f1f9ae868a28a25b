// What is heard of others: filters that are wanted, and the broker that is asked for them in portions.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/broker/hearing.h"

static struct hearing *hearing;
static char asked[4096]; // "+a +b -c": since it was looked at last
static size_t requests, portion;
static int last_mid;
static bool subscribing;

static bool note(char kind, char *const *filters, size_t count, int *mid) {
    cr_assert(count <= HEARING_PORTION);
    for (size_t i = 0; i < count; i++)
        sprintf(asked + strlen(asked), "%s%c%s", *asked != '\0' ? " " : "", kind, filters[i]);
    *mid = last_mid = (int)++requests;
    portion = count;
    subscribing = kind == '+';
    return true;
}

static bool subscribe(void *context, char *const *filters, size_t count, int *mid) {
    return note('+', filters, count, mid);
}

static bool unsubscribe(void *context, char *const *filters, size_t count, int *mid) {
    return note('-', filters, count, mid);
}

// As asking_again.h decides; the times are the link's.
static bool refused(void *context, const char *filter, int reason) {
    return reason == 0x80 || reason == 0x87 || reason == 0x97;
}

static void set_up(void) {
    hearing = hearing_new(
        &(struct hearing_handlers){.subscribe = subscribe, .unsubscribe = unsubscribe, .refused = refused});
    requests = 0;
    asked[0] = '\0';
}

static void tear_down(void) {
    hearing_free(hearing);
}

TestSuite(hearing, .init = set_up, .fini = tear_down);

static void expect_asked(const char *expected) {
    cr_assert_str_eq(asked, expected, "asked '%s', expected '%s'", asked, expected);
    asked[0] = '\0';
}

static void answer_with(int reason) {
    int granted[HEARING_PORTION];
    for (size_t i = 0; i < HEARING_PORTION; i++)
        granted[i] = reason;
    hearing_answer(hearing, last_mid, portion, subscribing ? granted : NULL);
}

static void answer(void) {
    answer_with(0);
}

static void want_many(int count) {
    for (int i = 0; i < count; i++) {
        char filter[16];
        snprintf(filter, sizeof filter, "f%d", i);
        hearing_want(hearing, filter);
    }
}

Test(hearing, asks_in_portions_one_after_another) {
    want_many(3 * HEARING_PORTION);
    cr_assert_eq(requests, 0, "there is no connection");
    hearing_begin(hearing, false);
    cr_assert_eq(requests, 1);
    cr_assert_eq(portion, HEARING_PORTION);
    answer();
    answer();
    cr_assert_eq(requests, 3);
    answer();
    cr_assert_eq(requests, 3);
}

Test(hearing, takes_no_answer_to_another_request) {
    hearing_begin(hearing, false);
    want_many(2);
    hearing_answer(hearing, last_mid + 1, 1, (int[]){0});
    hearing_answer(hearing, last_mid, 0, NULL);
    expect_asked("+f0");
    answer();
    expect_asked("+f1");
}

Test(hearing, drops_what_nobody_wants) {
    hearing_begin(hearing, false);
    want_many(1);
    hearing_drop(hearing, "f0"); // under way: the broker will have it
    hearing_drop(hearing, "f7"); // it never was
    answer();
    expect_asked("+f0 -f0");
    answer();
    want_many(1);
    expect_asked("+f0");
}

Test(hearing, goes_on_in_a_session_that_was_kept) {
    hearing_begin(hearing, false);
    want_many(2);
    answer();
    answer();
    expect_asked("+f0 +f1");
    hearing_end(hearing);
    hearing_drop(hearing, "f0");
    hearing_want(hearing, "new");
    hearing_begin(hearing, true);
    answer();
    expect_asked("-f0 +new");
}

Test(hearing, begins_anew_in_a_new_session) {
    hearing_begin(hearing, false);
    want_many(2);
    answer();
    answer();
    expect_asked("+f0 +f1");
    hearing_end(hearing);
    hearing_drop(hearing, "f0");
    hearing_begin(hearing, false);
    expect_asked("+f1");
}

// Whether the broker has got it is not known.
Test(hearing, asks_again_for_what_was_under_way) {
    hearing_begin(hearing, false);
    want_many(1);
    hearing_end(hearing);
    hearing_begin(hearing, true);
    expect_asked("+f0 +f0");
    hearing_end(hearing);
    hearing_drop(hearing, "f0");
    hearing_begin(hearing, true);
    answer();
    expect_asked("-f0");
    hearing_want(hearing, "f1");
    hearing_end(hearing);
    hearing_drop(hearing, "f1");
    hearing_begin(hearing, false);
    expect_asked("+f1");
}

Test(hearing, lets_be_what_is_refused_for_good_until_the_next_connection) {
    hearing_begin(hearing, false);
    want_many(1);
    answer_with(0x8f); // the filter is not valid
    hearing_want(hearing, "f0");
    hearing_ask_again(hearing);
    expect_asked("+f0");
    hearing_end(hearing);
    hearing_begin(hearing, true);
    expect_asked("+f0");
}

Test(hearing, asks_again_for_what_is_refused_for_a_while) {
    const int reasons[] = {0x80, 0x87, 0x97};
    hearing_begin(hearing, false);
    want_many(1);
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
        answer_with(reasons[i]);
        hearing_want(hearing, "f0");
        expect_asked("+f0"); // not before it is time
        hearing_ask_again(hearing);
    }
    answer();
    hearing_ask_again(hearing);
    expect_asked("+f0");
}

Test(hearing, does_not_ask_again_for_what_nobody_wants_any_more) {
    hearing_begin(hearing, false);
    want_many(2);
    answer_with(0x97);
    answer_with(0x97);
    expect_asked("+f0 +f1");
    hearing_drop(hearing, "f0");
    hearing_ask_again(hearing);
    expect_asked("+f1");
    hearing_drop(hearing, "f1"); // under way
    answer_with(0x97);
    hearing_ask_again(hearing);
    expect_asked("");
}

// What is refused of one filter mostly holds for thousands of them.
Test(hearing, asks_again_for_one_portion_and_for_more_when_some_is_granted) {
    want_many(3 * HEARING_PORTION);
    hearing_begin(hearing, false);
    for (int i = 0; i < 3; i++)
        answer_with(0x97);
    cr_assert_eq(requests, 3);
    for (int i = 0; i < 2; i++) {
        hearing_ask_again(hearing);
        answer_with(0x97);
    }
    cr_assert_eq(requests, 5);
    hearing_ask_again(hearing);
    answer();
    answer();
    answer();
    cr_assert_eq(requests, 8);
    hearing_ask_again(hearing);
    cr_assert_eq(requests, 8);
}

Test(hearing, asks_for_what_was_refused_on_a_new_connection) {
    hearing_begin(hearing, false);
    want_many(1);
    answer_with(0x97);
    hearing_end(hearing);
    hearing_begin(hearing, true);
    expect_asked("+f0 +f0");
    answer();
    hearing_ask_again(hearing);
    expect_asked("");
}

Test(hearing, drops_what_an_earlier_run_may_have_left_in_the_session) {
    hearing_begin(hearing, true);
    hearing_want(hearing, "f0");
    hearing_drop_inherited(hearing, "f0");
    hearing_drop_inherited(hearing, "f1");
    answer();
    expect_asked("+f0 -f1");
    hearing_end(hearing);
    hearing_begin(hearing, false);
    expect_asked("+f0");
    hearing_drop_inherited(hearing, "f2");
    answer();
    expect_asked("");
}
