// Exact decimal numbers; see decimal.h.
#include "schema/decimal.h"

#define DIGITS_MAX 18 // every number of so many digits fits an int64_t

static const int64_t powers[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000};

struct decimal decimal_integer(int64_t value) {
    return (struct decimal){.mantissa = value};
}

bool decimal_parse(const char *text, size_t length, struct decimal *out) {
    size_t at = length > 0 && (text[0] == '-' || text[0] == '+') ? 1 : 0;
    int64_t mantissa = 0;
    unsigned digits = 0, places = 0;
    bool point = false;
    for (; at < length; at++) {
        if (text[at] == '.' && !point && digits > 0) {
            point = true;
            continue;
        }
        if (text[at] < '0' || text[at] > '9' || ++digits > DIGITS_MAX)
            return false;
        mantissa = mantissa * 10 + (text[at] - '0');
        places += point;
    }
    if (digits == 0 || places > DECIMAL_PLACES_MAX || (point && places == 0))
        return false;
    out->mantissa = text[0] == '-' ? -mantissa : mantissa;
    out->places = (uint8_t)places;
    return true;
}

bool decimal_scale(struct decimal *value, unsigned places) {
    if (value->places + places > DECIMAL_PLACES_MAX)
        return false;
    value->places = (uint8_t)(value->places + places);
    return true;
}

bool decimal_in_range(struct decimal value, int64_t minimum, int64_t maximum) {
    // The whole part, rounded towards zero, and whether anything is left of it: no product can overflow so.
    int64_t whole = value.mantissa / powers[value.places];
    int64_t rest = value.mantissa % powers[value.places];
    bool above = whole > maximum || (whole == maximum && rest > 0);
    bool below = whole < minimum || (whole == minimum && rest < 0);
    return !above && !below;
}

double decimal_to_double(struct decimal value) {
    return (double)value.mantissa / (double)powers[value.places];
}

int64_t decimal_at(struct decimal value, unsigned places) {
    if (value.places >= places)
        return value.mantissa / powers[value.places - places];
    int64_t factor = powers[places - value.places];
    if (value.mantissa > INT64_MAX / factor)
        return INT64_MAX;
    return value.mantissa < INT64_MIN / factor ? INT64_MIN : value.mantissa * factor;
}

size_t decimal_write(struct decimal value, char *text) {
    char reversed[DECIMAL_TEXT_MAX];
    size_t count = 0, length = 0;
    uint64_t left = value.mantissa < 0 ? (uint64_t)0 - (uint64_t)value.mantissa : (uint64_t)value.mantissa;
    unsigned places = value.places;
    while (places > 0 && left % 10 == 0) {
        left /= 10;
        places--;
    }
    do {
        reversed[count++] = (char)('0' + left % 10);
        left /= 10;
        if (count == places)
            reversed[count++] = '.';
    } while (left > 0 || count <= places || reversed[count - 1] == '.');
    if (value.mantissa < 0)
        text[length++] = '-';
    while (count > 0)
        text[length++] = reversed[--count];
    text[length] = '\0';
    return length;
}
