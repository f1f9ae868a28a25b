// Where the page and the API give in commands: what becomes of many at once, and of those that the broker does not take now.
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "gateway/web/desk.h"

#define MOST 1024 // publishes that a desk remembers

static struct desk *desk;
static bool up;
static enum mqtt_publish_result result; // of what is published
static int last_mid;

static bool is_up(void *context) {
    return up;
}

static enum mqtt_publish_result publish(void *context, const struct mqtt_publish *publish, int *mid) {
    *mid = result == MQTT_SENT ? ++last_mid : 0;
    return result;
}

static const struct mqtt_carrier carrier = {.is_up = is_up, .publish = publish};

static void set_up(void) {
    up = true;
    result = MQTT_SENT;
    last_mid = 0;
    desk = desk_new("trackbus", &carrier);
}

static void tear_down(void) {
    desk_free(desk);
}

TestSuite(desk, .init = set_up, .fini = tear_down);

static unsigned give(void) {
    return desk_publish(desk, "command/gw/devices/42", NULL, MQTT_RETAINED);
}

static void expect_state(unsigned number, enum desk_state wanted, const char *why) {
    const char *reason;
    cr_assert_eq(desk_state(desk, number, &reason), wanted, "%u: %s", number, reason);
    cr_assert_str_eq(reason, why);
}

// What is under way is not forgotten for what comes: that would be told as refused, although the broker takes it.
Test(desk, has_room_for_so_many_and_takes_no_more) {
    unsigned first = give();
    for (unsigned i = 1; i < MOST; i++)
        cr_assert_eq(give(), first + i);
    cr_expect_eq(desk_room(desk), 0);
    cr_expect_eq(give(), 0);
    cr_expect_str_eq(desk_hindrance(desk), "too much is under way");
    cr_expect_eq(last_mid, MOST, "it is published, and not remembered");
    for (int mid = 1; mid <= MOST; mid++)
        desk_published(desk, mid, MQTT_TAKEN, NULL);
    cr_expect_eq(desk_room(desk), 0, "nobody was told of them");
    for (unsigned i = 0; i < MOST; i++)
        expect_state(first + i, DESK_TAKEN, "");
    cr_expect_eq(desk_room(desk), MOST);
    cr_expect_eq(give(), first + MOST);
}

Test(desk, of_several_all_stay_known_until_none_waits) {
    const char *reason;
    unsigned first = give();
    give();
    give();
    desk_published(desk, 1, MQTT_TAKEN, NULL);
    cr_expect_eq(desk_states(desk, first, 3, &reason), DESK_WAITS);
    desk_published(desk, 3, MQTT_TAKEN, NULL);
    cr_expect_eq(desk_states(desk, first, 3, &reason), DESK_WAITS);
    desk_published(desk, 2, MQTT_TAKEN, NULL);
    cr_expect_eq(desk_states(desk, first, 3, &reason), DESK_TAKEN);
    cr_expect_eq(desk_room(desk), MOST);
}

Test(desk, says_why_nothing_can_be_published) {
    result = MQTT_NOT_NOW;
    cr_expect_eq(give(), 0);
    cr_expect_str_eq(desk_hindrance(desk), "the broker wants it slower");
    up = false;
    cr_expect_eq(give(), 0);
    cr_expect_str_eq(desk_hindrance(desk), "the broker is not connected");
    cr_expect_eq(desk_room(desk), MOST);
}

Test(desk, tells_what_the_broker_refused) {
    unsigned refused = give(), lost = give();
    desk_published(desk, 1, MQTT_NEVER_TAKEN, "Not authorized");
    desk_lost(desk);
    expect_state(refused, DESK_REFUSED, "Not authorized");
    expect_state(lost, DESK_REFUSED, "the connection to the broker was lost; it may have been published");
}
