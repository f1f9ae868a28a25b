// Values as trackers write them; see values.h.
#include "codecs/values.h"

#define DAY      86400
#define EARLIEST 1420070400 // 2015-01-01: no tracker that is served here was built before

static bool is_leap(int year) {
    return year % 4 == 0; // so are 1972 to 2096, the year 2000 included
}

static int days_of_month(int year, int month) {
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return days[month - 1] + (month == 2 && is_leap(year));
}

// From 1970-01-01 to the first day of the year.
static int64_t days_to_year(int year) {
    return (int64_t)(year - 1970) * 365 + (year - 1969) / 4;
}

static bool is_moment(const struct value_moment *moment) {
    return moment->year >= 1970 && moment->year <= 2099 && moment->month >= 1 && moment->month <= 12 &&
           moment->day >= 1 && moment->day <= days_of_month(moment->year, moment->month) &&
           moment->hour >= 0 && moment->hour <= 23 && moment->minute >= 0 && moment->minute <= 59 &&
           moment->second >= 0 && moment->second <= 60;
}

bool value_unix_time(const struct value_moment *moment, int64_t *seconds) {
    if (!is_moment(moment))
        return false;
    int64_t days = days_to_year(moment->year) + moment->day - 1;
    for (int month = 1; month < moment->month; month++)
        days += days_of_month(moment->year, month);
    *seconds = days * DAY + moment->hour * 3600 + moment->minute * 60 + moment->second;
    return true;
}

struct value_moment value_moment_of(int64_t seconds) {
    int64_t days = seconds / DAY;
    int rest = (int)(seconds % DAY);
    struct value_moment moment = {.year = 1970, .month = 1};
    while (days >= days_to_year(moment.year + 1))
        moment.year++;
    days -= days_to_year(moment.year);
    while (days >= days_of_month(moment.year, moment.month))
        days -= days_of_month(moment.year, moment.month++);
    moment.day = (int)days + 1;
    moment.hour = rest / 3600;
    moment.minute = rest / 60 % 60;
    moment.second = rest % 60;
    return moment;
}

static int two_digits(const char *text) {
    return (text[0] - '0') * 10 + (text[1] - '0');
}

bool value_time_of_digits(struct span text, const char *order, int64_t *seconds) {
    struct value_moment moment = {0};
    if (!span_all_digits(text) || text.length != 12)
        return false;
    for (size_t i = 0; i < 6; i++) {
        int value = two_digits(text.text + 2 * i);
        switch (order[i]) {
        case 'Y':
            moment.year = value < 70 ? 2000 + value : 1900 + value;
            break;
        case 'M':
            moment.month = value;
            break;
        case 'D':
            moment.day = value;
            break;
        case 'h':
            moment.hour = value;
            break;
        case 'm':
            moment.minute = value;
            break;
        default:
            moment.second = value;
            break;
        }
    }
    return value_unix_time(&moment, seconds);
}

const char *value_time_fault(int64_t seconds, int64_t now) {
    int64_t today = now / 1000000;
    if (seconds < EARLIEST)
        return "before 2015";
    if (today >= EARLIEST && seconds > today + DAY)
        return "more than a day ahead of the gateway's clock";
    return NULL;
}

bool value_degrees_of_minutes(struct decimal minutes, struct decimal *degrees) {
    int64_t one = 1; // as many units as a minute has
    for (unsigned i = 0; i < minutes.places; i++)
        one *= 10;
    int64_t whole = minutes.mantissa / (100 * one), rest = minutes.mantissa % (100 * one);
    if (minutes.mantissa < 0 || whole > 180 || rest >= 60 * one)
        return false;
    int64_t unit = 10000000; // 10^VALUE_DEGREE_PLACES; rest * unit stays below 2^63: 9 places at most
    int64_t fraction = (rest * unit + 30 * one) / (60 * one);
    *degrees = (struct decimal){.mantissa = whole * unit + fraction, .places = VALUE_DEGREE_PLACES};
    return true;
}

bool value_km_h_of_knots(struct decimal knots, struct decimal *km_h) {
    bool fits = knots.mantissa >= 0 && knots.mantissa <= 1000000000;
    if (!fits || !decimal_scale(&knots, 3))
        return false;
    knots.mantissa *= 1852; // a knot is 1.852 km/h
    *km_h = knots;
    return true;
}

bool value_bcd_digits(const uint8_t *bytes, size_t length, char *digits) {
    for (size_t i = 0; i < 2 * length; i++) {
        int digit = i % 2 == 0 ? bytes[i / 2] >> 4 : bytes[i / 2] & 0x0F;
        if (digit > 9)
            return false;
        digits[i] = (char)('0' + digit);
    }
    digits[2 * length] = '\0';
    return true;
}

bool value_bcd(const uint8_t *bytes, size_t length, int64_t *number) {
    char digits[2 * 9 + 1];
    if (length == 0 || length > 9 || !value_bcd_digits(bytes, length, digits))
        return false;
    return span_integer((struct span){.text = digits, .length = 2 * length}, number);
}

size_t value_hex(const uint8_t *bytes, size_t length, char *text) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < length; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 0x0F];
    }
    text[2 * length] = '\0';
    return 2 * length;
}
