// How soon a report without an end mark is taken: by how the device has written until then.
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "tests/replay.h"

#define START "MT;6;866425031361423;R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+"

static struct replay replay;

static void begin(void) {
    replay_begin(&replay, codec_find("mictrack"));
}

static void end(void) {
    replay_end(&replay);
}

TestSuite(segments, .init = begin, .fini = end);

static void write_segment(const char *text) {
    replay_feed(&replay, (const uint8_t *)text, strlen(text), CODEC_PAUSE);
}

static void be_silent(void) {
    replay_feed(&replay, NULL, 0, CODEC_QUIET);
}

static void expect_messages(unsigned count) {
    cr_assert(replay.counters.messages == count, "%llu messages, expected %u",
              (unsigned long long)replay.counters.messages, count);
}

static void expect_quiet_ms(unsigned expected) {
    cr_assert(stream_quiet_ms(&replay.stream) == expected, "%u ms, expected %u",
              stream_quiet_ms(&replay.stream), expected);
}

Test(segments, a_number_of_three_digits_ends_a_report_at_once) {
    write_segment(START "113");
    expect_messages(1);
    write_segment(START "114");
    expect_messages(2);
    cr_assert(!stream_waits(&replay.stream));
}

Test(segments, a_shorter_number_may_grow) {
    write_segment(START "11");
    expect_messages(0);
    expect_quiet_ms(200);
    be_silent();
    expect_messages(1);
}

static void write_whole_reports(unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        write_segment(START "1");
        be_silent();
    }
    expect_messages(count);
}

Test(segments, a_device_that_writes_whole_reports_is_waited_for_less) {
    write_whole_reports(2);
    expect_quiet_ms(200);
    write_segment(START "1");
    write_segment(START "2"); // the next one ends it as well
    expect_quiet_ms(20);
    cr_assert(!replay.stream.cuts);
}

Test(segments, an_end_of_line_in_a_segment_of_its_own_cuts_nothing) {
    write_segment(START "1");
    write_segment("\r\n");
    expect_messages(1);
    cr_assert(!replay.stream.cuts);
}

Test(segments, one_report_that_was_cut_is_the_last_that_is_told_wrongly) {
    write_whole_reports(3);
    write_segment(START "1");
    be_silent(); // 20 ms
    write_segment("13");
    be_silent();
    expect_quiet_ms(200);
    write_segment("\r\n");
    unsigned before = (unsigned)replay.counters.messages;
    write_segment(START "113");
    expect_messages(before); // a number of three digits waits as well
}

Test(segments, more_items_after_three_digits_show_a_cut) {
    write_segment(START "113");
    write_segment("+5");
    write_segment(START "114");
    cr_assert(replay.stream.cuts);
    expect_messages(1);
}

static bool is_told(const char *number) {
    char member[40];
    snprintf(member, sizeof member, "\"message.seqnum\":%s,", number);
    for (size_t i = 0; i < replay.count; i++)
        if (strstr(replay.lines[i], member) != NULL)
            return true;
    return false;
}

// Once a device has cut a report, in time, each of its reports is told rightly wherever it is cut.
Test(segments, reports_of_a_device_that_cuts_them) {
    static const char report[] = START "113+5";
    for (size_t at = 1; at < sizeof report - 1; at++) {
        char first[sizeof report] = "";
        memcpy(first, report, at);
        write_segment(START);
        write_segment("7\r\n");
        cr_assert(replay.stream.cuts);
        write_segment(first);
        write_segment(report + at);
        be_silent();
        expect_messages(2);
        cr_assert(is_told("7") && is_told("113") && replay.counters.junk_bytes == 0, "cut at %zu", at);
        end();
        begin();
    }
}
