// Clocks that were set back, told from reports that a device kept: by the times alone.
#include <criterion/criterion.h>

#include "gateway/state/set_back.h"

#define SECOND INT64_C(1000000)
#define MINUTE (60 * SECOND)
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)
#define RIGHT  (-SECOND)             // a report takes a second to arrive
#define NOW    (1795651200 * SECOND) // in 2026

static struct set_back device;
static int64_t now; // the gateway's clock

static void set_up(void) {
    device = (struct set_back){0};
    now = NOW;
}

TestSuite(set_back, .init = set_up);

// Whether a report of that time moves what is shown.
static bool moves(int64_t reported) {
    int64_t shown = device.newest;
    return set_back_order(&device, reported, now) >= shown;
}

// Live reports of a clock that is so far off, one after each interval. Returns how many moved nothing.
static unsigned play_live(unsigned count, int64_t interval, int64_t off) {
    unsigned still = 0;
    for (unsigned i = 0; i < count; i++) {
        now += interval;
        still += !moves(now + off);
    }
    return still;
}

Test(set_back, a_right_clock_is_never_taken_as_set_back) {
    cr_expect(play_live(1000, MINUTE, -2 * SECOND) == 0);
    cr_expect(!device.recognised);
}

Test(set_back, a_time_zone_is_recognised_after_some_minutes) {
    play_live(10, MINUTE, RIGHT);
    cr_expect(play_live(100, MINUTE, -8 * HOUR) == 5, "the sixth report is five minutes after the first");
    cr_expect(device.recognised);
}

Test(set_back, a_rollover_of_the_week_is_recognised) {
    play_live(10, 10 * SECOND, RIGHT);
    cr_expect(play_live(100, 10 * SECOND, -1024 * 7 * DAY) == 30);
    cr_expect(device.recognised);
}

Test(set_back, one_report_an_hour_takes_two_hours) {
    play_live(3, HOUR, RIGHT);
    cr_expect(play_live(10, HOUR, -30 * DAY) == 2);
}

Test(set_back, delays_of_the_radio_do_not_matter) {
    static const int64_t delays[] = {2, 25, 4, 1, 17, 0, 9};
    play_live(10, MINUTE, RIGHT);
    unsigned still = 0;
    for (unsigned i = 0; i < 70; i++) {
        now += MINUTE;
        still += !moves(now - 8 * HOUR - delays[i % 7] * SECOND);
    }
    cr_expect(still <= 6, "%u of 70 moved nothing", still);
}

Test(set_back, a_backlog_moves_nothing) {
    play_live(10, MINUTE, RIGHT);
    int64_t shown = device.newest;
    // 500 reports of a day ago, one a minute, that come two a second; then five seconds apart.
    for (int64_t i = 0; i < 500; i++) {
        now += i < 250 ? SECOND / 2 : 5 * SECOND;
        cr_assert(!moves(shown - DAY + i * MINUTE), "report %lld", (long long)i);
    }
    cr_expect(!device.recognised);
    cr_expect(moves(now + RIGHT), "a live report");
}

Test(set_back, a_backlog_between_live_reports_moves_nothing) {
    play_live(10, MINUTE, RIGHT);
    for (int64_t i = 0; i < 500; i++) {
        now += MINUTE;
        cr_assert(moves(now + RIGHT), "a live report");
        cr_assert(!moves(NOW - DAY + i * MINUTE), "one of yesterday, which keeps pace");
    }
}

Test(set_back, kept_reports_of_a_clock_that_was_set_back_move_nothing) {
    play_live(10, MINUTE, RIGHT);
    play_live(10, MINUTE, -8 * HOUR);
    cr_assert(device.recognised);
    int64_t left = now - 8 * HOUR;
    now += HOUR; // out of reach
    for (int64_t i = 1; i < 60; i++) {
        now += SECOND;
        cr_assert(!moves(left + i * MINUTE), "report %lld", (long long)i);
    }
    cr_expect(play_live(10, MINUTE, -8 * HOUR) == 5, "then it is found again");
}

Test(set_back, a_clock_that_is_put_right_counts_at_once) {
    play_live(10, MINUTE, RIGHT);
    play_live(10, MINUTE, -8 * HOUR);
    cr_expect(play_live(10, MINUTE, RIGHT) == 0);
    cr_expect(!device.recognised);
}

Test(set_back, times_that_do_not_go_forward_are_no_clock) {
    play_live(10, MINUTE, RIGHT);
    for (int64_t i = 0; i < 100; i++) {
        now += MINUTE;
        cr_assert(!moves(NOW - DAY - i * MINUTE));
    }
    for (int64_t i = 0; i < 100; i++) {
        now += MINUTE;
        cr_assert(!moves(NOW - DAY), "a position that is reported again and again");
    }
}

// A device that has no place does not always say the time: then it is that of the arrival.
Test(set_back, reports_without_a_time_do_not_hide_a_clock_that_was_set_back) {
    play_live(10, MINUTE, RIGHT);
    unsigned still = 0;
    for (unsigned i = 0; i < 50; i++) {
        now += MINUTE;
        still += !moves(now - 8 * HOUR);
        now += SECOND;
        cr_assert(moves(now), "one without a time");
    }
    cr_expect(still == 5, "%u", still);
}

Test(set_back, a_clock_that_is_ahead_keeps_no_later_report_out) {
    cr_expect(play_live(5, MINUTE, 20 * HOUR) == 0);
    cr_expect(play_live(5, MINUTE, RIGHT) == 0);
}

Test(set_back, a_jump_of_the_gateways_clock_is_not_the_devices) {
    play_live(10, MINUTE, RIGHT);
    now -= HOUR; // and the devices are right
    play_live(3, MINUTE, RIGHT);
    now += HOUR;
    cr_expect(play_live(10, MINUTE, RIGHT) == 0);
}

Test(set_back, it_is_recognised_after_a_restart) {
    device.newest = NOW; // as it was retained
    cr_expect(play_live(10, MINUTE, -8 * HOUR) == 5);
}

// Those of a device that says no time have that of the arrival.
Test(set_back, a_jump_of_the_gateways_clock_freezes_no_reports_without_a_time) {
    play_live(10, MINUTE, 0);
    now -= 8 * HOUR;
    cr_expect(play_live(40, 2 * SECOND, 0) == 0);
    cr_expect(play_live(10, MINUTE, RIGHT) == 5, "those with one are found after five minutes");
    cr_expect(!moves(now - HOUR), "a kept one");
}

// A report that says the time may arrive behind one that does not, and be older.
Test(set_back, a_report_without_a_time_is_newer_than_what_was_received_before_it) {
    play_live(3, MINUTE, 0);
    now += MINUTE;
    cr_assert(moves(now));
    cr_expect(!moves(now - HOUR));
    device.newest = now + DAY; // of a device whose clock was ahead, as it was retained
    cr_expect(moves(now), "it is what came last");
}
