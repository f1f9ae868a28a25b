// Values as trackers write them: dates, degrees and minutes, BCD, knots, hexadecimal digits.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codecs/reader.h"
#include "schema/decimal.h"

// Places of degrees that are made from minutes: 1e-7 degrees are a centimetre.
#define VALUE_DEGREE_PLACES 7

// A moment of the calendar, in UTC.
struct value_moment {
    int year; // 1970 to 2099
    int month, day;
    int hour, minute;
    int second; // 60 is a leap second
};

// Seconds since 1970. False, and *seconds untouched, when there is no such moment.
bool value_unix_time(const struct value_moment *moment, int64_t *seconds);

// The other way, for a time in a reply. seconds is not negative and before the year 2100.
struct value_moment value_moment_of(int64_t seconds);

// Pairs of digits in the order that the letters of order say: "YMDhms" reads 190109091803 as 2019-01-09
// 09:18:03. A year is one of 1970 to 2069. text is exactly as long as that.
bool value_time_of_digits(struct span text, const char *order, int64_t *seconds);

// Why seconds since 1970 cannot be the time of a report, as a constant for message_note_removed(); NULL when
// they can: not before 2015, and at most a day ahead of now. now is the gateway's clock in microseconds, as in
// struct codec_setting. A clock that is itself before 2015 is not set, and says nothing about the device's.
const char *value_time_fault(int64_t seconds, int64_t now);

// ddmm.mmmm or dddmm.mmmm, not negative, to degrees. False when the degrees are more than 180 or the minutes
// not less than 60.
bool value_degrees_of_minutes(struct decimal minutes, struct decimal *degrees);

// Knots to km/h, exactly. False when negative, more than 1e9, or of too many places.
bool value_km_h_of_knots(struct decimal knots, struct decimal *km_h);

// The digits of BCD bytes and a NUL; digits has 2 * length + 1 bytes. False when a half byte is no digit.
bool value_bcd_digits(const uint8_t *bytes, size_t length, char *digits);

// The number in 1 to 9 BCD bytes. False when a half byte is no digit.
bool value_bcd(const uint8_t *bytes, size_t length, int64_t *number);

// Two hexadecimal digits for each byte, lower case, and a NUL; returns how many digits. text has
// 2 * length + 1 bytes.
size_t value_hex(const uint8_t *bytes, size_t length, char *text);
